"""What every resource uses, without knowing any: lists, search, cursors, writes, idempotency."""
