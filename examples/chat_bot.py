"""A chat bot that remembers: every run is a new conversation with the same memory.

    python examples/chat_bot.py [SESSION]

An empty line, or Ctrl-D, ends the conversation, which is when it is learnt.
"""

import os
import sys
import uuid

from hope_client import Status, StatusUpdate, SyncHopeClient, TextDelta


def main(session: str = "diary") -> None:
    """Talks until there is no more input, then learns."""
    conversation = uuid.uuid4().hex
    with SyncHopeClient(os.environ.get("HOPE_SERVER", "127.0.0.1:50051")) as client:
        client.sessions.get_or_create(session)
        while text := ask():
            for event in client.generate(session, text, conversation=conversation):
                if isinstance(event, TextDelta):
                    print(event.text, end="", flush=True)
                elif isinstance(event, StatusUpdate) and event.status == Status.STATUS_LEARNING:
                    print("(learning)", file=sys.stderr)
            print()
        learnt = client.sessions.end_conversation(session, conversation)
        print(f"memory version {learnt.session.memory_version}")


def ask() -> str:
    """The next line of the user; empty at the end."""
    try:
        return input("you> ")
    except EOFError:
        return ""


if __name__ == "__main__":
    main(*sys.argv[1:])
