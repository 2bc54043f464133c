"""An SMB2 client of one file at a time that locks and caches, which Samba's Python binding cannot.

One command a line on standard input, one answer a line; python3-impacket speaks the protocol.

open NAME ACCESS SHARE [OPLOCK]   numbers in hexadecimal, as in MS-SMB2 2.2.13; answers "ok HANDLE"
oplock HANDLE                     the level that was granted
broken HANDLE SECONDS             waits for the order to give it up, does so; answers the level that is left
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
        # The library does not tell what was granted.
        create = smb2.SMB2Create()
        create["SecurityFlags"] = 0
        create["RequestedOplockLevel"] = int(oplock, 16)
        create["ImpersonationLevel"] = smb2.SMB2_IL_IMPERSONATION
        create["DesiredAccess"] = int(access, 16)
        create["FileAttributes"] = 0
        create["ShareAccess"] = int(share, 16)
        create["CreateDisposition"] = OPEN_IF
        create["CreateOptions"] = smb2.FILE_NON_DIRECTORY_FILE
        create["NameLength"] = 2 * len(name)
        create["Buffer"] = name.encode("utf-16le")
        create["CreateContextsOffset"] = 0
        create["CreateContextsLength"] = 0
        answer = self.send(smb2.SMB2_CREATE, create)
        answer.isValidAnswer(STATUS_SUCCESS)
        said = smb2.SMB2Create_Response(answer["Data"])
        self.handles.append((said["FileID"], said["OplockLevel"]))
        return len(self.handles) - 1

    def oplock(self, handle):
        return self.handles[int(handle)][1]

    def broken(self, handle, seconds):
        # The order has no request that it answers: its number is the highest there is. The library counts it as one.
        window = self.smb._Connection["SequenceWindow"]
        self.smb.set_timeout(float(seconds))
        try:
            order = self.smb.recvSMB(0xFFFFFFFFFFFFFFFF)
        finally:
            self.smb.set_timeout(ANSWER_S)
            self.smb._Connection["SequenceWindow"] = window
        level = smb2.SMB2OplockBreakNotification(order["Data"])["OplockLevel"]
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


COMMANDS = ("open", "oplock", "broken", "lock", "unlock", "count", "read", "write", "put", "get", "close")


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
