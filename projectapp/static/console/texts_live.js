// The texts of the live changes and the charts.
export default {
  ko: {
    "live.empty": "아직 변경이 없습니다",
    "live.empty_text": "누군가 저장하면 여기에 나타납니다.",
    "charts.total": "행 수",
  },
  en: {
    "live.empty": "No changes yet",
    "live.empty_text": "They appear here when somebody saves.",
    "charts.total": "Rows",
  },
};
