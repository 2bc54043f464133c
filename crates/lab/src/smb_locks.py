"""An SMB2 client of one file at a time that locks and caches, which Samba's Python binding cannot.

One command a line on standard input, one answer a line; python3-impacket speaks the protocol.

open NAME ACCESS SHARE [OPLOCK]   numbers in hexadecimal, as in MS-SMB2 2.2.13; answers "ok HANDLE"
oplock HANDLE                     the level that was granted
broken HANDLE SECONDS             waits for the order to give it up, does so; answers the level that is left
lease NAME ACCESS SHARE           opens with a lease of its own to read, write and keep open; answers "ok HANDLE"
leased HANDLE                     what was granted: 1 to read, 2 to keep open, 4 to write
unleased HANDLE SECONDS           waits for the order to give up a part of it, does so; answers what is left
lock HANDLE OFFSET LENGTH         alone, at once or not at all
unlock HANDLE OFFSET LENGTH
count HANDLE SECONDS              adds 1 to the number in the file, under a lock that is waited for, again and again;
                                  answers how often and the longest wait in milliseconds
read HANDLE                       the number
write HANDLE TEXT                 at the file's beginning
put HANDLE OFFSET HEX             on stable storage (flushed) when it is answered
get HANDLE OFFSET LENGTH          answers in hexadecimal
close HANDLE

What the server refuses is answered with "error STATUS WORDS"; "lost WORDS" is the last answer of a broken connection.
"""

import os
import struct
import sys
import time

from impacket import smb3structs as smb2
from impacket.nmb import NetBIOSError, NetBIOSTimeout
from impacket.nt_errors import STATUS_SUCCESS
from impacket.smb3 import SMB3, SessionError

ANSWER_S = 30
OPEN_IF = 3
# What the lock commands and the counters write: room for any number.
WIDTH = 20
# From the packet's header: 64 bytes of it, 56 of the request.
NAME_AT = 120
LEASE = b"RqLs"
TRY_ALONE = smb2.SMB2_LOCKFLAG_EXCLUSIVE_LOCK | smb2.SMB2_LOCKFLAG_FAIL_IMMEDIATELY


class Client:
    def __init__(self, server, share, user, password):
        self.smb = SMB3(server, server, timeout=ANSWER_S, preferredDialect=smb2.SMB2_DIALECT_21)
        self.smb.login(user, password)
        self.tree = self.smb.connectTree(share)
        self.handles = []

    def send(self, command, data):
        packet = self.smb.SMB_PACKET()
        packet["Command"] = command
        packet["TreeID"] = self.tree
        packet["Data"] = data
        return self.smb.recvSMB(self.smb.sendSMB(packet))

    def open(self, name, access, share, oplock="0"):
        said = self.create(name, access, share, int(oplock, 16))
        return self.keep(said, said["OplockLevel"], None)

    def keep(self, said, granted, key):
        self.handles.append((said["FileID"], granted, key))
        return len(self.handles) - 1

    def create(self, name, access, share, oplock, context=b""):
        # The library does not tell what was granted.
        create = smb2.SMB2Create()
        create["SecurityFlags"] = 0
        create["RequestedOplockLevel"] = oplock
        create["ImpersonationLevel"] = smb2.SMB2_IL_IMPERSONATION
        create["DesiredAccess"] = int(access, 16)
        create["FileAttributes"] = 0
        create["ShareAccess"] = int(share, 16)
        create["CreateDisposition"] = OPEN_IF
        create["CreateOptions"] = smb2.FILE_NON_DIRECTORY_FILE
        words = name.encode("utf-16le")
        create["NameLength"] = len(words)
        # Contexts begin at a multiple of eight, counted from the packet's header; the name is at one.
        padded = words + bytes(-len(words) % 8) if context else words
        create["Buffer"] = padded + context
        create["CreateContextsOffset"] = NAME_AT + len(padded) if context else 0
        create["CreateContextsLength"] = len(context)
        answer = self.send(smb2.SMB2_CREATE, create)
        answer.isValidAnswer(STATUS_SUCCESS)
        return smb2.SMB2Create_Response(answer["Data"])

    def lease(self, name, access, share):
        key = os.urandom(16)
        wanted = smb2.SMB2_LEASE_READ_CACHING | smb2.SMB2_LEASE_HANDLE_CACHING | smb2.SMB2_LEASE_WRITE_CACHING
        data = key + struct.pack("<LLQ", wanted, 0, 0)
        head = struct.pack("<LHHHHL", 0, 16, len(LEASE), 0, 24, len(data))
        context = head + LEASE + bytes(4) + data
        said = self.create(name, access, share, smb2.SMB2_OPLOCK_LEVEL_LEASE, context)
        # Of all that was asked for there is one context; its data are in the same place as in the request.
        granted = said["Buffer"][24:]
        if granted[:16] != key:
            return self.keep(said, 0, key)
        return self.keep(said, struct.unpack_from("<L", granted, 16)[0], key)

    def leased(self, handle):
        return self.handles[int(handle)][1]

    def unleased(self, handle, seconds):
        order = smb2.SMB2LeaseBreakNotification(self.order(seconds))
        key = self.handles[int(handle)][2]
        if order["LeaseKey"] != key:
            raise OSError("the order to give up a lease is of another one")
        if order["Flags"] & smb2.SMB2_NOTIFY_BREAK_LEASE_FLAG_ACK_REQUIRED:
            given = smb2.SMB2LeaseBreakAcknowledgement()
            given["LeaseKey"] = key
            given["LeaseState"] = order["NewLeaseState"]
            self.send(smb2.SMB2_OPLOCK_BREAK, given).isValidAnswer(STATUS_SUCCESS)
        return order["NewLeaseState"]

    def oplock(self, handle):
        return self.handles[int(handle)][1]

    def order(self, seconds):
        # The order has no request that it answers: its number is the highest there is. The library counts it as one.
        window = self.smb._Connection["SequenceWindow"]
        self.smb.set_timeout(float(seconds))
        try:
            order = self.smb.recvSMB(0xFFFFFFFFFFFFFFFF)
        finally:
            self.smb.set_timeout(ANSWER_S)
            self.smb._Connection["SequenceWindow"] = window
        return order["Data"]

    def broken(self, handle, seconds):
        level = smb2.SMB2OplockBreakNotification(self.order(seconds))["OplockLevel"]
        given = smb2.SMB2OplockBreakAcknowledgment()
        given["OplockLevel"] = level
        given["FileID"] = self.handles[int(handle)][0]
        self.send(smb2.SMB2_OPLOCK_BREAK, given).isValidAnswer(STATUS_SUCCESS)
        return level

    def range(self, handle, offset, length, flags):
        element = smb2.SMB2_LOCK_ELEMENT()
        element["Offset"], element["Length"], element["Flags"] = int(offset), int(length), flags
        lock = smb2.SMB2Lock()
        lock["FileID"] = self.handles[int(handle)][0]
        lock["LockCount"] = 1
        lock["LockSequence"] = 0
        lock["Locks"] = element.getData()
        self.send(smb2.SMB2_LOCK, lock).isValidAnswer(STATUS_SUCCESS)
        return ""

    def lock(self, handle, offset, length):
        return self.range(handle, offset, length, TRY_ALONE)

    def unlock(self, handle, offset, length):
        return self.range(handle, offset, length, smb2.SMB2_LOCKFLAG_UNLOCK)

    def bytes(self, handle, offset, length):
        read = smb2.SMB2Read()
        read["Padding"] = 0x50
        read["FileID"] = self.handles[int(handle)][0]
        read["Length"] = int(length)
        read["Offset"] = int(offset)
        answer = self.send(smb2.SMB2_READ, read)
        answer.isValidAnswer(STATUS_SUCCESS)
        return smb2.SMB2Read_Response(answer["Data"])["Buffer"]

    def get(self, handle, offset, length):
        return self.bytes(handle, offset, length).hex()

    def read(self, handle):
        return int(self.bytes(handle, 0, WIDTH))

    def store(self, handle, offset, data):
        write = smb2.SMB2Write()
        write["FileID"] = self.handles[int(handle)][0]
        write["Length"] = len(data)
        write["Offset"] = int(offset)
        write["WriteChannelInfoOffset"] = 0
        write["Buffer"] = data
        self.send(smb2.SMB2_WRITE, write).isValidAnswer(STATUS_SUCCESS)

    def put(self, handle, offset, data):
        self.store(handle, offset, bytes.fromhex(data))
        flush = smb2.SMB2Flush()
        flush["FileID"] = self.handles[int(handle)][0]
        self.send(smb2.SMB2_FLUSH, flush).isValidAnswer(STATUS_SUCCESS)
        return ""

    def write(self, handle, text):
        self.store(handle, 0, text.encode())
        return ""

    def count(self, handle, seconds):
        end = time.monotonic() + float(seconds)
        done, longest = 0, 0.0
        while (begun := time.monotonic()) < end:
            self.range(handle, 0, WIDTH, smb2.SMB2_LOCKFLAG_EXCLUSIVE_LOCK)
            longest = max(longest, time.monotonic() - begun)
            self.write(handle, str(self.read(handle) + 1).zfill(WIDTH))
            self.unlock(handle, 0, WIDTH)
            done += 1
        return f"{done} {longest * 1000:.0f}"

    def close(self, handle):
        close = smb2.SMB2Close()
        close["Flags"] = 0
        close["FileID"] = self.handles[int(handle)][0]
        self.send(smb2.SMB2_CLOSE, close).isValidAnswer(STATUS_SUCCESS)
        return ""


COMMANDS = (
    "open", "oplock", "broken", "lease", "leased", "unleased", "lock", "unlock", "count", "read", "write", "put", "get", "close",
)


def serve():
    client = Client(*sys.argv[1:])
    print("ready", flush=True)
    for line in sys.stdin:
        words = line.split()
        if not words or words[0] not in COMMANDS:
            return
        try:
            print("ok", getattr(client, words[0])(*words[1:]), flush=True)
        except SessionError as error:
            refused(error)


def refused(error):
    print(f"error {error.get_error_code():#010x} {error}", flush=True)


def main():
    try:
        serve()
    except SessionError as error:
        refused(error)
    except (NetBIOSError, NetBIOSTimeout, OSError) as error:
        print(f"lost {error}", flush=True)


main()
