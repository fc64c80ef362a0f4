"""One question, answered with a session's memory and without it. It teaches nothing.

    python examples/compare.py SESSION QUESTION [RIGHT_ANSWER]

With the right answer it also tells how surprising each finds it: lower is better known.
"""

import os
import sys

from hope_client import SyncHopeClient


def main(session: str, question: str, answer: str = "") -> None:
    """Asks in an empty context, so that only the memory makes the difference."""
    with SyncHopeClient(os.environ.get("HOPE_SERVER", "127.0.0.1:50051")) as client:
        blank = client.sessions.create()  # the base model, which was taught nothing
        try:
            for label, name in (("with memory", session), ("without", blank.name)):
                reply = client.say(name, question, conversation="compare", ephemeral=True)
                print(f"{label}: {reply.text}")
                if answer:
                    score = client.score(name, answer, context=question)
                    print(f"{label}: {score.total_nats / score.tokens:.3f} nats per token")
        finally:
            client.sessions.delete(blank.name)


if __name__ == "__main__":
    main(*sys.argv[1:])
