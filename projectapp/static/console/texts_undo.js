// The texts of undo.
export default {
  ko: {
    "undo.done": "되돌렸습니다: {label}",
    "undo.changed": "그사이 다시 변경되어 되돌리지 못했습니다: {label}",
    "undo.failed": "되돌리지 못했습니다: {label}",
  },
  en: {
    "undo.done": "Undone: {label}",
    "undo.changed": "It has changed since, so it was not undone: {label}",
    "undo.failed": "The undo failed: {label}",
  },
};
