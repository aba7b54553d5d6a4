#!/usr/bin/env python3
"""A reference client for knock-spa(7): one datagram that opens a door.

    knock_spa.py --keygen my.key                       makes a key, prints the public one
    knock_spa.py --key my.key --server-key BASE64 --door ssh gw.example.com
    knock_spa.py --key my.key -                        asks as a link of knockctl enroll says

A link is read from standard input, and the private key in it kept in the file; later without it:
what the link says is printed as the options that do the same. Needs Python 3.9 and the package `cryptography`. The last stamp is kept beside the key.
"""
import argparse, base64, fcntl, hashlib, hmac, ipaddress, os, socket, struct, sys, time

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def mac(key, *parts):
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()


def public(private):
    raw = serialization.Encoding.Raw, serialization.PublicFormat.Raw
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes(*raw)


def agree(private, point):
    # Refuses a point of low order.
    point = X25519PublicKey.from_public_bytes(point)
    return X25519PrivateKey.from_private_bytes(private).exchange(point)


def mix(chain, secret):
    """Noise's MixKey: the next chaining key, and a key for one message."""
    extracted = mac(chain, secret)
    chain = mac(extracted, b"\x01")
    return chain, mac(extracted, chain, b"\x02")


def encrypt(key, transcript, plain):
    return ChaCha20Poly1305(key).encrypt(bytes(12), plain, transcript)


def request(stamp, door="", v4=None, v6=None, close=False, source_port=0, open_for=0):
    """The 80 bytes of a request; without an address it is for the observed one."""
    flags = (0 if v4 or v6 else 1) | (2 if close else 0)
    v4 = ipaddress.IPv4Address(v4 or 0).packed
    v6 = ipaddress.IPv6Address(v6 or 0).packed
    fields = 1, flags, source_port, open_for, stamp, v4, v6, door.encode("ascii")
    return struct.pack(">BBHIQ4s12x16s32s", *fields)


def seal(payload, client, server, ephemeral):
    """The datagram, 192 bytes: Noise_X_25519_ChaChaPoly_SHA256, masked and tagged."""
    e = public(ephemeral)
    chain = b"Noise_X_25519_ChaChaPoly_SHA256".ljust(32, b"\0")
    transcript = sha256(sha256(sha256(chain, b"knock spa v1"), server), e)
    chain, key = mix(chain, agree(ephemeral, server))
    s = encrypt(key, transcript, public(client))
    transcript = sha256(transcript, s)
    chain, key = mix(chain, agree(client, server))
    p = encrypt(key, transcript, payload)
    mask = mac(sha256(b"knock spa v1 mask", server), p[-16:])
    body = bytes(a ^ b for a, b in zip(e, mask)) + s + p
    return mac(sha256(b"knock spa v1 tag", server), body)[:16] + body


def next_stamp(path):
    """Microseconds since 1970, later than any that this key has used, also if the clock was set back."""
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        stamp = max(time.time_ns() // 1000, int(file.read() or 0) + 1)
        file.seek(0)
        file.write(f"{stamp:020}\n")
        file.flush()
        os.fsync(file.fileno())
        return stamp


class LinkReader:
    """The fields of a link, one after the other."""

    def __init__(self, data):
        self.data = data

    def take(self, count):
        if count > len(self.data):
            raise ValueError("of a newer knockctl")
        taken, self.data = self.data[:count], self.data[count:]
        return taken

    def number(self):
        value = shift = 0
        while True:
            byte, = self.take(1)
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def bytes(self):
        return self.take(self.number())

    def text(self):
        return self.bytes().decode()

    def optional(self, read):
        return read() if self.number() else None

    def list(self, read):
        return [read() for _ in range(self.number())]

    def server(self):
        return self.take(32), self.optional(lambda: (self.number(), self.number()))

    def fwknop(self):
        return {"keys": self.optional(self.bytes), "hash": self.number(),
                "port": self.optional(self.number), "ports": self.list(self.text),
                "nat": self.optional(lambda: (self.take(4), self.number()))}

    def scheme(self):
        if self.number():
            mode = {"base": self.number(), "digits": (6, 8)[self.number()]}
        else:
            mode = {"ports": (self.number(), self.number()), "length": self.number(),
                    "protocol": ("tcp", "udp", "mixed")[self.number()]}
        return {**mode, "step": self.number(), "skew": self.number()}

    def entry(self):
        door, way = self.text(), ("spa", "totp", "fwknop")[self.number()]
        how = {"spa": dict, "totp": self.scheme, "fwknop": self.fwknop}[way]()
        return {"door": door, "way": way, **how, "wait": self.optional(self.number)}

    def link(self):
        return {"host": self.text(), "label": self.text(), "secret": self.optional(self.bytes),
                "key": self.optional(self.bytes), "server": self.optional(self.server),
                "entries": self.list(self.entry)}


def read_link(text):
    """What a link says; ValueError says why it is none."""
    start, _, coded = "".join(text.split()).partition("/1/")
    if start.lower() != "knock:/":
        raise ValueError("no link of this version")

    def decode(text):
        try:
            return base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
        except ValueError:
            raise ValueError("mistyped") from None

    count = int.from_bytes(decode(coded[:4]), "big")
    rest = coded[4:4 + count]
    if len(rest) < count:
        raise ValueError("cut off")
    data = decode(rest)
    if sha256(b"knock link v1\0", data[:-4])[:4] != data[-4:]:
        raise ValueError("mistyped")
    reader = LinkReader(data[:-4])
    link = reader.link()
    if reader.data:
        raise ValueError("of a newer knockctl")
    return link


def take_up(link, args):
    """Sets the options of which a link speaks, and keeps its private key."""
    doors = [entry["door"] for entry in link["entries"] if entry["way"] == "spa"]
    if args.door not in ["", *doors] or not doors:
        sys.exit(f"the link has these doors for SPA: {', '.join(doors)}")
    server, ports = link["server"]
    args.host, args.door = link["host"], args.door or doors[0]
    args.server_key = base64.b64encode(server).decode()
    args.port = ports[0] if ports else args.port
    if link["key"] and not os.path.exists(args.key):
        write_key(args.key, link["key"])
    elif link["key"] and read_key(args.key) != link["key"]:
        sys.exit(f"{args.key} holds another key than the link: name another file, or move that one")
    print(f"--key {args.key} --server-key {args.server_key} --door {args.door} "
          f"--port {args.port} {args.host}")


def write_key(path, key):
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(base64.b64encode(key) + b"\n")


def read_key(path):
    if not os.path.exists(path):
        sys.exit(f"there is no key in {path}: --keygen makes one")
    if os.stat(path).st_mode & 0o077:
        sys.exit(f"{path} can be read by others: chmod 600 {path}")
    with open(path, "rb") as file:
        return base64.b64decode(file.read().strip(), validate=True)


def main():
    cli = argparse.ArgumentParser(description="Opens a door of knockd with one datagram.")
    cli.add_argument("host", nargs="?", help="or -: a link of knockctl enroll, on standard input")
    cli.add_argument("--keygen", metavar="FILE", help="make a key and print the public one")
    cli.add_argument("--key", metavar="FILE", help="this client's private key")
    cli.add_argument("--server-key", metavar="BASE64", help="the server's public key")
    cli.add_argument("--door", default="", help="may be left out if there is only one")
    cli.add_argument("--address", action="append", default=[], help="not the observed one")
    cli.add_argument("--source-port", type=int, default=0, metavar="N")
    cli.add_argument("--open-for", type=int, default=0, metavar="SECONDS")
    cli.add_argument("--close", action="store_true")
    cli.add_argument("--port", type=int, default=62201)
    args = cli.parse_args()
    if args.keygen:
        key = os.urandom(32)
        write_key(args.keygen, key)
        print(base64.b64encode(public(key)).decode())
        return
    if args.host == "-" and args.key:
        try:
            take_up(read_link(sys.stdin.read()), args)
        except (ValueError, IndexError) as error:
            sys.exit(f"this is no link, or it is not whole: {error}")
    if not (args.host and args.key and args.server_key):
        cli.error("a host, --key and --server-key are needed")
    client = read_key(args.key)
    server = base64.b64decode(args.server_key, validate=True)
    given = {f"v{ipaddress.ip_address(ip).version}": ip for ip in args.address}
    payload = request(next_stamp(args.key + ".last"), args.door, close=args.close,
                      source_port=args.source_port, open_for=args.open_for, **given)
    datagram = seal(payload, client, server, os.urandom(32))
    family, kind, _, _, place = socket.getaddrinfo(args.host, args.port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as sender:
        sender.sendto(datagram, place)


if __name__ == "__main__":
    main()
