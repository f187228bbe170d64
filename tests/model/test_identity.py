"""What makes a machine from a checkpoint somebody else."""

import email

import yaml

from nacre.model import identity
from nacre.model.guests import CloudInit
from nacre.model.ids import CheckpointId

CHECKPOINT = CheckpointId("ckpt-00000000000000000000000001")
PLAIN = CloudInit(hostname="web")
OTHER = identity.renewed(PLAIN, CHECKPOINT, "c2VlZA==")


def test_who_stays_who_it_is_is_told_nothing():
    assert identity.config(PLAIN) == {}
    assert identity.with_hook("#cloud-config\n{}\n", PLAIN) == "#cloud-config\n{}\n"


def test_host_keys_and_randomness_are_new():
    assert OTHER.identity == CHECKPOINT
    assert OTHER.parts == ("hostname",)
    found = identity.config(OTHER)
    assert found["ssh_deletekeys"] is True
    assert found["random_seed"] == {"file": "/dev/urandom", "encoding": "b64", "data": "c2VlZA=="}


def test_the_machine_id_is_made_anew_once_per_instance():
    message = email.message_from_string(identity.with_hook("#cloud-config\na: 1\n", OTHER))
    assert message.is_multipart()
    config, hook = message.get_payload()
    assert (config.get_content_type(), hook.get_content_type()) == ("text/cloud-config", "text/cloud-boothook")
    assert yaml.safe_load(config.get_payload()) == {"a": 1}
    script = hook.get_payload()
    assert script.startswith("#!/bin/sh\n")
    assert "cloud-init-per instance nacre-machine-id" in script
    assert "/etc/machine-id" in script
