"""The vault when keys change: who may sign from now on opens it, who may no longer does not."""

from __future__ import annotations

from pathlib import Path

from nebh.cli.session import Session
from nebh.host import files
from nebh.model.errors import BadInput, NebhError
from nebh.signing.statements import StatementSigner
from nebh.signing.vault import VAULT, Vault, recipients_of, vault_key

_LIMIT = 256 << 20


def read_copy(path: str) -> bytes:
    """Return the bytes of a copy of a vault, b"" for no path. Raises BadInput."""
    if not path:
        return b""
    try:
        return files.read_bounded(Path(path), limit=_LIMIT)
    except OSError as error:
        raise BadInput(f"cannot read the vault {path}: {error.strerror or error}") from error


def reseal_vault(session: Session, *, opener: StatementSigner, own: StatementSigner, copy: bytes = b"") -> None:
    """Seal this computer's vault, with what is newer in `copy`, to the keys that are signed now. opener: a key that it
    was sealed to; own: this computer's from now on. What goes wrong is said, and the vault stays as it was: the keys are
    changed already."""
    folder, out = session.folder, session.out
    if not copy and not (folder.path / VAULT).exists():
        return
    try:
        cluster_id = folder.cluster.cluster_id
        vault = Vault(folder.path, cluster_id)
        if copy:
            vault.adopt(copy, what="given by --vault")
        recipients = recipients_of(session.state(accept_expired=True), vault_key(own, cluster_id))
        left = vault.reseal(vault_key(opener, cluster_id), recipients)
    except (NebhError, OSError) as error:
        out.note(out.paint(f"  the vault was not sealed to the new keys: {error}", "yellow"))
        return
    out.note(f"the vault is sealed to the keys that are signed now: {len(vault.keys) - len(left)} secrets")
    for key in left:
        out.note(
            out.paint(f"  {key} was not sealed to that key and cannot be read here: nebh secret set {key}", "yellow")
        )
