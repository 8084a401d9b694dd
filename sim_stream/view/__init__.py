"""``sim-stream view``: a page to watch and drive sessions on, for several viewers at once.

    options    what the subcommand takes
    app        the subcommand: server, client, page, until Ctrl-C
    web        HTTP and WebSocket           guard     who may connect: pages served from here alone
    hub        sessions and viewers, and what a viewer's command does to them
    drive      a session of ours, stepped by the clock   controls  keys held -> action
    step_inputs  what its next step is sent with         fields    what of a spec a page can offer
    greeting   what a viewer is told first
    subscriber sessions of other clients, from the server's PUB socket
    channel    what all sessions have in common: the latest frame and who watches
    picture    a step's frames as viewers get them, encoded once
    viewer     one viewer's outgoing side
    messages   what travels between page and server
    static     the page: HTML, CSS and JavaScript as they are, nothing is built

    browser <- WebSocket -> viewer <- channel <- drive -> AsyncStreamClient -> server
                               hub  <- commands

The page's server is a client like any other: it knows the wire and the
model's spec, no models.
"""
