// Actions on several selected rows.

/** The controls of the list for this. */
export function SelectionBar() {
  return null;
}
