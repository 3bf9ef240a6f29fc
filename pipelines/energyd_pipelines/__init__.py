"""Which training programs come with energyd? They are workloads: they know the client, nothing else of it."""
