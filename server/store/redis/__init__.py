"""Sessions in Redis or Valkey, for many replicas."""

from server.store.redis.durability import Durability
from server.store.redis.store import RedisStore

__all__ = ["Durability", "RedisStore"]
