"""backlog.py STORED PARTIAL: so many more stored episodes and partial uploads in the store of a receiver that stands still, of a host lab9.

They are copies of one of each that is there already, under ids of their own, with sidecars that are sound. Half of the partial uploads have
expired.
"""

import glob
import hashlib
import json
import os
import sys
import time
import uuid

STORE = "/var/lib/cis490-receiver"
EXPIRED = 8 * 24 * 3600  # seconds, for upload_max_age = "7d"
OWNER = os.stat(STORE)


def give(path):
    os.chown(path, OWNER.st_uid, OWNER.st_gid)


def write(path, content):
    with open(path, "xb") as file:
        file.write(content)
    give(path)


def directory(path):
    made = STORE
    for name in os.path.relpath(path, STORE).split("/"):
        made += "/" + name
        if not os.path.isdir(made):
            os.mkdir(made, 0o750)
            give(made)
    return path


def new_id():
    return str(uuid.UUID(int=uuid.uuid4().int & ~(0xF << 76) | 7 << 76))


def stored(count):
    sidecar = min(glob.glob(STORE + "/episodes/lab1/*/*/*/*.json"), key=os.path.getsize)
    old = os.path.basename(sidecar).removesuffix(".json")
    archive = sidecar.removesuffix(".json") + ".tar.zst"
    with open(sidecar, "rb") as file:
        head = file.read().rpartition(b',"sha256":')[0].replace(b'"host":"lab1"', b'"host":"lab9"')
    into = directory(os.path.dirname(sidecar).replace("/lab1/", "/lab9/"))
    for _ in range(count):
        id = new_id()
        mine = head.replace(old.encode(), id.encode())
        os.link(archive, f"{into}/{id}.tar.zst")
        write(f"{into}/{id}.json", mine + b',"sha256":"%s"}\n' % hashlib.sha256(mine).hexdigest().encode())


def partial(count):
    meta = glob.glob(STORE + "/incoming/*.json")[0]
    with open(meta, encoding="utf-8") as file:
        one = json.load(file)
    with open(meta.removesuffix(".json") + ".zst", "rb") as file:
        data = file.read(1000)  # less than a frame
    old = one["announcement"].partition('id="')[2].partition('"')[0]
    one.update(host="lab9", proper=0)
    now = time.time()
    for n in range(count):
        token = os.urandom(16).hex()
        mine = dict(one, announcement=one["announcement"].replace(old, new_id()))
        for name, content in ((".json", json.dumps(mine).encode()), (".zst", data)):
            path = f"{STORE}/incoming/{token}{name}"
            write(path, content)
            if n % 2:
                os.utime(path, (now - EXPIRED, now - EXPIRED))


stored(int(sys.argv[1]))
partial(int(sys.argv[2]))
