"""The laws of the store, as queries that find what breaks them.

SQLite enforces some itself (foreign keys, unique names). They are asked again
here, because what is checked is the file, whatever wrote it.
"""

from __future__ import annotations

from server.store.sqlite.rows import Tx, digest_of

_REFERENCES = (
    "SELECT session, name, blob FROM head_blobs"
    " UNION ALL SELECT session, name, blob FROM version_blobs"
    " UNION ALL SELECT session, name, blob FROM job_blobs"
)

_LAWS = {
    "blob without a reference": (
        f"SELECT id, user FROM blobs WHERE id NOT IN (SELECT blob FROM ({_REFERENCES}))"
    ),
    "reference without a blob": (
        f"SELECT session, name FROM ({_REFERENCES}) WHERE blob NOT IN (SELECT id FROM blobs)"
    ),
    "reference to another user's blob": (
        f"SELECT refs.session, refs.name FROM ({_REFERENCES}) AS refs"
        " JOIN sessions ON sessions.id = refs.session JOIN blobs ON blobs.id = refs.blob"
        " WHERE sessions.user != blobs.user"
    ),
    "log with a gap": (
        "SELECT sessions.id, log_seq, count(seq), min(seq), max(seq) FROM sessions"
        " LEFT JOIN log ON log.session = sessions.id GROUP BY sessions.id"
        " HAVING count(seq) != log_seq OR (log_seq > 0 AND (min(seq) != 1 OR max(seq) != log_seq))"
    ),
    "log whose bytes are miscounted": (
        "SELECT sessions.id, log_bytes FROM sessions WHERE log_bytes !="
        " (SELECT coalesce(sum(length(payload)), 0) FROM log WHERE session = sessions.id)"
    ),
    "head whose version is not the highest kept": (
        "SELECT id, version FROM sessions WHERE version IS NOT"
        " (SELECT max(version) FROM versions WHERE session = sessions.id)"
    ),
    "version ahead of the log": (
        "SELECT versions.session, versions.version FROM versions"
        " JOIN sessions ON sessions.id = session WHERE versions.log_seq > sessions.log_seq"
    ),
    "fence granted twice or never": (
        "SELECT lease_fence, count(*) FROM sessions WHERE lease_fence > 0 GROUP BY lease_fence"
        " HAVING count(*) > 1 OR lease_fence > (SELECT last FROM fence)"
    ),
}


def broken_laws(tx: Tx) -> list[str]:
    findings = [f"{law}: {tuple(row)}" for law, query in _LAWS.items() for row in tx.execute(query)]
    findings += [f"dangling row: {tuple(row)}" for row in tx.execute("PRAGMA foreign_key_check")]
    findings += [
        f"file: {message}" for (message,) in tx.execute("PRAGMA integrity_check") if message != "ok"
    ]
    # One blob at a time: together they may be larger than memory.
    for row in tx.execute("SELECT id, digest, size, data FROM blobs"):
        if len(row["data"]) != row["size"] or digest_of(row["data"]) != row["digest"]:
            findings.append(f"blob {row['id']} is not what its digest says")
    return findings
