"""The outer loop of fast memories beside a frozen base: `hope train fast-memory`."""
