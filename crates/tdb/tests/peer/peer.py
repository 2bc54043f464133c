# libtdb itself, in a process of its own: one command a line on stdin, one answer a line on stdout. Bytes are in hex,
# "-" is no bytes. The commands are libtdb's calls; "die" is SIGKILL.
import ctypes, os, signal, sys

class Data(ctypes.Structure):
    _fields_ = [("dptr", ctypes.c_void_p), ("dsize", ctypes.c_size_t)]

lib = ctypes.CDLL("libtdb.so.1", use_errno=True)
libc = ctypes.CDLL(None)
libc.free.argtypes = [ctypes.c_void_p]
lib.tdb_open.restype = ctypes.c_void_p
lib.tdb_fetch.restype = Data
lib.tdb_errorstr.restype = ctypes.c_char_p
callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, Data, Data, ctypes.c_void_p)
db = None
keep = []

def data(text):
    raw = b"" if text == "-" else bytes.fromhex(text)
    buffer = ctypes.create_string_buffer(raw, len(raw) + 1)
    keep.append(buffer)
    return Data(ctypes.cast(buffer, ctypes.c_void_p), len(raw))

def text(d):
    return ctypes.string_at(d.dptr, d.dsize).hex() or "-"

def call(name, *args):
    return getattr(lib, name)(ctypes.c_void_p(db), *args)

def run(words):
    global db
    name, args = words[0], words[1:]
    if name == "open":
        # path flags hash_size create
        how = os.O_RDWR | (os.O_CREAT if args[3] == "1" else 0)
        db = lib.tdb_open(args[0].encode(), int(args[2]), int(args[1], 0), how, 0o600)
        return 0 if db else -1
    if name == "close":
        result, db = call("tdb_close"), None
        return result
    if name == "fetch":
        d = call("tdb_fetch", data(args[0]))
        if not d.dptr:
            return "none"
        answer = text(d)
        libc.free(d.dptr)
        return answer
    if name == "store":
        return call("tdb_store", data(args[0]), data(args[1]), int(args[2]))
    if name == "append":
        return call("tdb_append", data(args[0]), data(args[1]))
    if name in ("delete", "chainlock", "chainlock_nonblock", "chainunlock", "chainlock_read",
                "chainlock_read_nonblock", "chainunlock_read", "exists"):
        return call("tdb_" + name, data(args[0]))
    if name in ("lockall", "lockall_nonblock", "lockall_read_nonblock", "unlockall", "unlockall_read",
                "transaction_start", "transaction_start_nonblock", "transaction_prepare_commit", "transaction_commit",
                "transaction_cancel", "wipe_all", "repack", "get_seqnum", "enable_seqnum"):
        return call("tdb_" + name)
    if name == "max_dead":
        return call("tdb_set_max_dead", int(args[0]))
    if name == "check":
        return call("tdb_check", None, None)
    if name == "all":
        # every record: key=data ... ; "all write" traverses to write
        found = []
        each = callback(lambda tdb, k, d, private: found.append(text(k) + "=" + text(d)) or 0)
        how = "tdb_traverse" if args == ["write"] else "tdb_traverse_read"
        return -1 if call(how, each, None) < 0 else " ".join(["ok"] + found)
    if name == "stand":
        # stands on the first record it meets until the next line
        def each(tdb, k, d, private):
            print(text(k), flush=True)
            sys.stdin.readline()
            return 1
        return call("tdb_traverse_read", callback(each), None)
    if name == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "loop":
        # commits for ever: sets the keys 0.. to one value, and a growing pile of others
        count, n = int(args[0]), 0
        print("looping", flush=True)
        while True:
            if call("tdb_transaction_start") != 0:
                return -1
            for key in range(count):
                call("tdb_store", data(f"{key:08x}"), data((b"%010d" % n).hex() * (1 + (n + key) % 50)), 0)
            if call("tdb_transaction_commit") != 0:
                return -1
            n += 1
            keep.clear()
    raise ValueError(name)

for line in sys.stdin:
    words = line.split()
    try:
        answer = run(words)
    except BrokenPipeError:
        break
    keep.clear()
    print(answer, flush=True)
