// The texts of the list, the filters, the selection, export and import.
export default {
  ko: {
    "list.empty": "아직 {resource} 항목이 없습니다",
    "list.empty_text": "첫 항목을 만들어 보세요.",
    "list.no_match": "찾은 항목이 없습니다",
    "list.no_match_text": "검색어나 필터를 바꿔 보세요.",
    "list.clear": "검색과 필터 지우기",
    "list.total": "{count}개",
    "list.total_estimate": "약 {count}개",
    "list.more": "더 불러오기",
  },
  en: {
    "list.empty": "There are no {resource} yet",
    "list.empty_text": "Make the first one.",
    "list.no_match": "Nothing matches",
    "list.no_match_text": "Change the search or the filters.",
    "list.clear": "Clear search and filters",
    "list.total": { one: "{count} row", other: "{count} rows" },
    "list.total_estimate": "about {count} rows",
    "list.more": "Load more",
  },
};
