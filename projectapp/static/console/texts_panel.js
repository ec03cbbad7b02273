// The texts of the panel, the conflict dialog, the history and undo.
export default {
  ko: {
    "panel.saved": "저장했습니다.",
    "panel.deleted": "삭제했습니다.",
    "panel.invalid_json": "올바른 JSON 객체가 아닙니다.",
    "history.create": "만듦",
    "history.update": "바꿈",
    "history.delete": "삭제함",
    "history.restore": "복원함",
    "history.empty": "이력이 없습니다",
  },
  en: {
    "panel.saved": "Saved.",
    "panel.deleted": "Deleted.",
    "panel.invalid_json": "This is not a JSON object.",
    "history.create": "created",
    "history.update": "changed",
    "history.delete": "deleted",
    "history.restore": "restored",
    "history.empty": "There is no history",
  },
};
