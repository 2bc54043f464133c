"""An SMB session that stays: carries out what standard input says, one command and one answer a line.

open NAME ACCESS SHARE   both in hexadecimal, as in MS-SMB2 2.2.13; answers "ok HANDLE"
write HANDLE TEXT        at the file's beginning
close HANDLE
exit                     as the end of standard input

What the server refuses is answered with "error STATUS WORDS". The session ends with its connection.
"""

import sys

from samba import NTSTATUSError, credentials
from samba.samba3 import libsmb_samba_internal as libsmb
from samba.samba3 import param

FILE_OPEN_IF = 3


def carry_out(session, words):
    if words[0] == "open":
        name, access, share = words[1], int(words[2], 16), int(words[3], 16)
        handle = session.create(
            name, DesiredAccess=access, ShareAccess=share, CreateDisposition=FILE_OPEN_IF
        )
        return str(handle)
    if words[0] == "write":
        session.write(int(words[1]), words[2].encode(), 0)
        return ""
    if words[0] == "close":
        session.close(int(words[1]))
        return ""
    raise ValueError(f"unknown command {words[0]}")


def main():
    server, share, user, password = sys.argv[1:]
    settings = param.get_context()
    settings.load("/dev/null")
    who = credentials.Credentials()
    who.guess(settings)
    who.set_username(user)
    who.set_password(password)
    session = libsmb.Conn(server, share, lp=settings, creds=who)
    session.settimeout(30_000)
    print("ready", flush=True)
    for line in sys.stdin:
        words = line.split()
        if not words or words[0] == "exit":
            return
        try:
            print("ok", carry_out(session, words), flush=True)
        except NTSTATUSError as error:
            print(f"error {error.args[0]:#010x} {error.args[1]}", flush=True)


main()
