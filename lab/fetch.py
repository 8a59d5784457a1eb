"""Files from the package index and from Debian, each verified before it is used."""

import shutil

from .steps import LAB, Failure, fresh_folder, run, say, sha256_of

DOWNLOADS = LAB / "downloads"


def index_file(python, project, filename, sha256):
    """The path of a file of a project on pip's package index, fetched if it is not there yet.

    `python` is one with pip, which does the fetching.
    """
    path = DOWNLOADS / filename
    if path.exists() and sha256_of(path) == sha256:
        return path
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(filename + ".part")
    say(f"[{filename}] ", end="")
    hint = f"{filename} cannot be fetched; see that pip reaches its package index"
    run([python, LAB.parent / "lab" / "pip_file.py", project, filename, partial], hint=hint)
    found = sha256_of(partial)
    if found != sha256:
        partial.unlink()
        raise Failure(
            f"{filename} from the package index has SHA-256 {found}, expected {sha256}: not used"
        )
    partial.replace(path)
    return path


def debian_mirror():
    """The address of the Debian archive that this system itself uses."""
    for attempt in range(2):
        targets = run(
            [
                "apt-get",
                "indextargets",
                "--format",
                "$(ORIGIN)|$(LABEL)|$(REPO_URI)",
                "Created-By: Packages",
            ]
        )
        for line in targets.splitlines():
            if line.startswith("Debian|Debian|"):
                return line.split("|")[2]
        if attempt == 0:
            # Before the first update apt does not know yet which of its sources is Debian.
            update_system_lists()
    raise Failure(
        "apt knows no Debian archive: add one to /etc/apt/sources.list and run this again"
    )


def update_system_lists():
    run(
        [*as_root(), "apt-get", "update"],
        hint="apt cannot read its package lists; see that its mirror is reachable",
    )


def as_root():
    """What to put before a command that needs root."""
    import os

    if os.geteuid() == 0:
        return []
    if shutil.which("sudo"):
        return ["sudo"]
    raise Failure(
        "neither root nor sudo: have an administrator run"
        " `apt-get install --no-install-recommends wine wine64 python3-venv`, then run this again"
    )


def debian_packages(suites, packages, folder, source=False):
    """Fetch the newest `packages` of the first of `suites` that can deliver them all into `folder`.

    Through a private apt configuration: the system's own stays as it is. apt checks every file by
    the archive's signature. `source`: the source packages, else the binary ones.
    """
    problems = []
    for suite in suites:
        home = LAB / "apt" / (suite + ("-source" if source else ""))
        for name in ("lists/partial", "cache/archives/partial"):
            (home / name).mkdir(parents=True, exist_ok=True)
        (home / "sources.list").write_text(
            f"{'deb-src' if source else 'deb'} {debian_mirror()} {suite} main\n"
        )
        options = [
            f"Dir::Etc::sourcelist={home}/sources.list",
            "Dir::Etc::sourceparts=/dev/null",
            f"Dir::State::Lists={home}/lists",
            f"Dir::Cache={home}/cache",
            # The checkout need not be readable by apt's own user.
            "APT::Sandbox::User=root",
            "Acquire::Retries=3",
        ]
        apt = ["apt-get", "-q", *[word for option in options for word in ("-o", option)]]
        fresh_folder(folder)
        try:
            run([*apt, "update"])
            if source:
                run([*apt, "source", "--download-only", *packages], cwd=folder)
            else:
                run([*apt, "download", *packages], cwd=folder)
            return
        except Failure as problem:
            problems.append(str(problem))
        finally:
            shutil.rmtree(home)
    raise Failure(
        f"Debian's {' or '.join(suites)} does not deliver {', '.join(packages)};"
        " see that apt's mirror is reachable\n" + "\n".join(problems)
    )
