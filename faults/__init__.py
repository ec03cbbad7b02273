"""The fault harness: breaks what projectapp stands on and checks what it told its clients."""
