// Export of the current view, and import of a file.

/** The controls of the list for this. */
export function ExportImport() {
  return null;
}
