from ssl import SSLContext

class Tls:
    def __init__(
        self, context: SSLContext, server_side: bool, server_hostname: str | None
    ) -> None: ...
