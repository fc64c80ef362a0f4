"""The default recipe: practising statements from replays, held by contrasts."""
