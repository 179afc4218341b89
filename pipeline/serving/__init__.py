"""`cm3 serve`: the champion's answers as JSON, and the store's pages, over HTTP.

One process follows the registry and prepares each champion as files (`follower`, `prepare`); serving processes map
these files into memory and answer from them alone (`model`, `app`). So a new champion costs its preparation once, the
processes share its memory, and a store that is away stops nobody.
"""
