"""The playground, a page at ``/`` to try rankings with: its files in ``static``, and what they ask the gateway."""
