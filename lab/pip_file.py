"""Fetch one file of a project from pip's package index: pip_file.py PROJECT FILENAME TARGET.

Runs in the lab's virtual environment, whose pip is pinned, because pip alone knows the user's
settings: which index, certificates, proxy, credentials. `pip download` would not do: of a source
distribution it runs the set-up. The caller checks the file's SHA-256.
"""

import sys
from urllib.parse import urljoin

from pip._internal.commands import create_command


def main(project, filename, target):
    command = create_command("download")
    options, _ = command.parse_args([project])
    session = command._build_session(options)
    page = f"{options.index_url.rstrip('/')}/{project}/"
    response = session.get(page, headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    response.raise_for_status()
    addresses = [
        urljoin(page, file["url"])
        for file in response.json()["files"]
        if file["filename"] == filename
    ]
    if not addresses:
        sys.exit(f"the package index lists no {filename}")
    with session.get(addresses[0], stream=True) as response, open(target, "wb") as file:
        response.raise_for_status()
        for block in response.iter_content(1 << 20):
            file.write(block)


if __name__ == "__main__":
    main(*sys.argv[1:])
