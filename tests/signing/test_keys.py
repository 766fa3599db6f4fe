"""Key files and a real ssh-agent."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess

import pytest
from securesystemslib.signer import CryptoSigner, Signer

from nebh.model.errors import BadInput, NotFound
from nebh.signing.keys import AgentKey, WrongPassphrase, check_signs, load_key, open_key, save_key
from nebh.signing.statements import Seed
from nebh.signing.tuf_keys import TufSigner, tuf_key

KEY = Seed(b"k" * 32)


def test_a_key_file_is_private_and_comes_back(tmp_path):
    path = tmp_path / "operator.key"
    save_key(path, KEY)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key(path) == KEY
    with pytest.raises(BadInput):
        save_key(path, KEY)


def test_a_passphrase_opens_and_a_wrong_one_does_not(tmp_path):
    path = tmp_path / "operator.key"
    save_key(path, KEY, passphrase="correct horse")
    assert load_key(path, ask=lambda: "correct horse") == KEY
    with pytest.raises(WrongPassphrase):
        load_key(path, ask=lambda: "wrong")
    with pytest.raises(BadInput):
        load_key(path)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(NotFound) as error:
        load_key(tmp_path / "none")
    assert "recover" in error.value.hint
    (tmp_path / "text").write_text("hello")
    with pytest.raises(BadInput):
        load_key(tmp_path / "text")
    (tmp_path / "rsa").write_bytes(CryptoSigner.generate_rsa(size=2048).private_bytes)
    with pytest.raises(BadInput):
        load_key(tmp_path / "rsa")


def test_securesystemslib_reads_our_file_and_we_read_its(tmp_path):
    save_key(tmp_path / "a", KEY)
    signer = Signer.from_priv_key_uri(f"file2:{tmp_path / 'a'}", tuf_key(KEY.public))
    signer.public_key.verify_signature(TufSigner(KEY).sign(b"x"), b"x")
    made = CryptoSigner.generate_ed25519()
    (tmp_path / "b").write_bytes(made.private_bytes)
    assert tuf_key(load_key(tmp_path / "b").public) == made.public_key


@pytest.fixture
def agent():
    if not shutil.which("ssh-agent"):
        pytest.skip("ssh-agent is not installed")
    import tempfile

    folder = tempfile.mkdtemp(prefix="nt-", dir="/tmp")
    process = subprocess.Popen(["ssh-agent", "-D", "-a", f"{folder}/s"], stdout=subprocess.DEVNULL)
    import time

    for _ in range(100):
        if os.path.exists(f"{folder}/s"):
            break
        time.sleep(0.02)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{folder}/k"], check=True)
    env = {**os.environ, "SSH_AUTH_SOCK": f"{folder}/s"}
    subprocess.run(["ssh-add", "-q", f"{folder}/k"], check=True, env=env, capture_output=True)
    yield f"{folder}/s", env
    process.send_signal(signal.SIGTERM)
    process.wait()
    shutil.rmtree(folder)


def test_an_ssh_agents_signature_is_a_tuf_signature(agent):
    socket, env = agent
    key = open_key("ssh-agent:", agent_socket=socket)
    assert isinstance(key, AgentKey)
    check_signs(key)
    tuf_key(key.public).verify_signature(TufSigner(key).sign(b"payload"), b"payload")
    assert open_key(f"ssh-agent:{key.public}", agent_socket=socket) == key
    with pytest.raises(NotFound):
        open_key("ssh-agent:" + "0" * 64, agent_socket=socket)
    subprocess.run(["ssh-add", "-q", "-D"], check=True, env=env, capture_output=True)
    with pytest.raises(BadInput):
        open_key("ssh-agent:", agent_socket=socket)


def test_no_agent_is_said():
    with pytest.raises(NotFound):
        open_key("ssh-agent:", agent_socket="")
