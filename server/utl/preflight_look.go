package utl

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"go.etcd.io/bbolt"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/api/walpb"
	"github.com/keelson-io/keelson/internal/vfs"
	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/server/membership"
	"github.com/keelson-io/keelson/wal"
	"github.com/keelson-io/keelson/wal/snap"
)

type preflightOptions struct {
	dir, walDir string
	deep        bool
}

// logSeen is what the log holds.
type logSeen struct {
	node, cluster uint64
	marker        *walpb.Snapshot // the last one that is committed; nil: none
	*wal.Contents
}

// last is the index of the last entry, or of the snapshot before the first one.
func (l *logSeen) last() uint64 {
	if n := len(l.Entries); n > 0 {
		return l.Entries[n-1].GetIndex()
	}
	return l.marker.GetIndex()
}

// dbSeen is what the database holds.
type dbSeen struct {
	size, inUse             int64 // inUse 0: not known
	index, term             uint64
	hasTerm, hasConfState   bool
	storage, clusterVersion string
	downgrade               membership.DowngradeInfo
	members                 []*membership.Member
	removed                 map[uint64]bool
	auth                    bool
	users, roles, leases    int
	alarms                  []string
	revision                int64
	hash                    *uint32 // nil: not asked for
}

// readLog reads the log without changing it. The error is about the log.
func readLog(dir string) (*logSeen, error) {
	markers, err := wal.SnapshotMarkers(vfs.OS, dir)
	if err != nil {
		return nil, err
	}
	l := &logSeen{}
	if len(markers) > 0 {
		l.marker = markers[len(markers)-1]
	}
	if l.Contents, err = wal.ReadOnly(vfs.OS, dir, l.marker); err != nil {
		return nil, err
	}
	meta := &pb.Metadata{}
	if err := proto.Unmarshal(l.Metadata, meta); err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	l.node, l.cluster = meta.GetNodeID(), meta.GetClusterID()
	return l, nil
}

// held says whether another process has a database open. It locks the file for a moment, for readers.
func held(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

// copies is how often a database that is being written is copied until no commit comes between.
const copies = 5

// copyRunning copies a database that another process has open. whole: no commit came between, so that the copy is sound if the
// database is.
func copyRunning(path string) (to string, whole bool, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", false, err
	}
	if free, err := freeSpace(os.TempDir()); err == nil && free < uint64(info.Size())+64<<20 {
		return "", false, fmt.Errorf("there is no room in %s for a copy of %d bytes", os.TempDir(), info.Size())
	}
	dst, err := os.CreateTemp("", "preflight-*.db")
	if err != nil {
		return "", false, err
	}
	defer func() {
		if err = errors.Join(err, dst.Close()); err != nil {
			_ = os.Remove(dst.Name())
		}
	}()
	src, err := os.Open(path)
	if err != nil {
		return "", false, err
	}
	defer src.Close()
	for range copies {
		before, err := metaPages(src)
		if err != nil {
			return "", false, err
		}
		if _, err := src.Seek(0, io.SeekStart); err != nil {
			return "", false, err
		}
		if err := errors.Join(dst.Truncate(0), seekStart(dst)); err != nil {
			return "", false, err
		}
		if _, err := io.Copy(dst, src); err != nil {
			return "", false, err
		}
		after, err := metaPages(src)
		if err != nil {
			return "", false, err
		}
		if before == after {
			return dst.Name(), true, nil
		}
	}
	return dst.Name(), false, nil
}

func seekStart(f *os.File) error {
	_, err := f.Seek(0, io.SeekStart)
	return err
}

// metaPages are the first bytes of a file, which every commit changes.
func metaPages(f *os.File) (head [2 * 64 << 10]byte, err error) {
	_, err = f.ReadAt(head[:], 0)
	if err == io.EOF {
		err = nil
	}
	return head, err
}

// quickPages is up to what size every page of a database is looked at without being asked.
const quickPages = 256 << 20

// readDB reads a database that nobody has locked. The error is about the database.
func readDB(path string, deep bool) (_ *dbSeen, err error) {
	// A file that is damaged where nothing was checked must not end the process.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("it is damaged: %v", r)
		}
	}()
	db, err := bbolt.Open(path, 0o400, &bbolt.Options{ReadOnly: true, Timeout: 1})
	if err != nil {
		return nil, fmt.Errorf("it is not a database file: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	seen := &dbSeen{removed: map[uint64]bool{}}
	return seen, db.View(func(tx *bbolt.Tx) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if info.Size() < tx.Size() {
			return fmt.Errorf("it is cut off: %d bytes of %d", info.Size(), tx.Size())
		}
		seen.size = info.Size()
		if deep || info.Size() <= quickPages {
			if seen.inUse, err = inUse(tx); err != nil {
				return fmt.Errorf("it is damaged: %w", err)
			}
		}
		if deep {
			if err := consistent(tx); err != nil {
				return err
			}
			st, err := statusOf(tx)
			if err != nil {
				return err
			}
			seen.hash = &st.Hash
		}
		return seen.read(tx)
	})
}

func (s *dbSeen) read(tx *bbolt.Tx) error {
	meta := tx.Bucket(metaBucket)
	if meta == nil {
		return errors.New("it has no bucket \"meta\": it is no database of etcd's kind")
	}
	s.index, s.term = number(meta.Get([]byte("consistent_index"))), number(meta.Get([]byte("term")))
	s.hasTerm, s.hasConfState = len(meta.Get([]byte("term"))) > 0, len(meta.Get([]byte("confState"))) > 0
	s.storage = string(meta.Get(storageVersionKey))
	if keys := tx.Bucket(keyBucket); keys != nil {
		if k, _ := keys.Cursor().Last(); k != nil {
			r, _, err := backend.ParseKey(k)
			if err != nil {
				return err
			}
			s.revision = r.Main
		}
	}
	if b := tx.Bucket([]byte("cluster")); b != nil {
		s.clusterVersion = string(b.Get([]byte("clusterVersion")))
		if d := b.Get([]byte("downgrade")); d != nil {
			if err := json.Unmarshal(d, &s.downgrade); err != nil {
				return fmt.Errorf("downgrade: %w", err)
			}
		}
	}
	if err := s.readMembers(tx); err != nil {
		return err
	}
	if b := tx.Bucket([]byte("auth")); b != nil {
		s.auth = slices.Equal(b.Get([]byte("authEnabled")), []byte{1})
	}
	s.users, s.roles, s.leases = count(tx, "authUsers"), count(tx, "authRoles"), count(tx, "lease")
	return each(tx, "alarm", func(k, _ []byte) error {
		a := &pb.AlarmMember{}
		if err := proto.Unmarshal(k, a); err != nil {
			return fmt.Errorf("alarm: %w", err)
		}
		s.alarms = append(s.alarms, fmt.Sprintf("%s of member %x", a.Alarm, a.MemberID))
		return nil
	})
}

func (s *dbSeen) readMembers(tx *bbolt.Tx) error {
	if err := each(tx, "members", func(k, v []byte) error {
		id, err := membership.ParseID(string(k))
		m := &membership.Member{ID: id}
		if err == nil {
			err = json.Unmarshal(v, m)
		}
		s.members = append(s.members, m)
		return err
	}); err != nil {
		return fmt.Errorf("members: %w", err)
	}
	return each(tx, "members_removed", func(k, _ []byte) error {
		id, err := membership.ParseID(string(k))
		s.removed[id] = true
		return err
	})
}

// each visits the rows of a bucket, if it is there.
func each(tx *bbolt.Tx, bucket string, fn func(k, v []byte) error) error {
	if b := tx.Bucket([]byte(bucket)); b != nil {
		return b.ForEach(fn)
	}
	return nil
}

func count(tx *bbolt.Tx, bucket string) (n int) {
	_ = each(tx, bucket, func(_, _ []byte) error { n++; return nil }) // it returns what the function does
	return n
}

func number(row []byte) (n uint64) {
	for _, b := range row {
		n = n<<8 | uint64(b)
	}
	return n
}

// v2Tree is a node of the dump of etcd's old store, as .snap files hold it.
type v2Tree struct {
	Value    string
	Children map[string]*v2Tree
}

// readV2 counts the keys of users of the old store in the newest snapshot file of a directory, and names its members.
func readV2(dir string) (keys int, file string, err error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.snap"))
	if err != nil || len(names) == 0 {
		return 0, "", err
	}
	file = names[len(names)-1] // named by term and index
	s, err := snap.Read(vfs.OS, file)
	if err != nil {
		return 0, file, err
	}
	var store struct{ Root *v2Tree }
	if err := json.Unmarshal(s.GetData(), &store); err != nil || store.Root == nil {
		return 0, file, nil // what it holds is no matter of ours, but that it can be read
	}
	if users := store.Root.Children["1"]; users != nil {
		keys = users.leaves()
	}
	return keys, file, nil
}

func (n *v2Tree) leaves() (sum int) {
	for _, c := range n.Children {
		if c.Children == nil {
			sum++
		}
		sum += c.leaves()
	}
	return sum
}

// v2Path says whether an entry is a request of etcd's old store, and for what path: one by itself (before 3.0), or in the field 2 of
// a command (up to 3.5).
func v2Path(e *raftpb.Entry) (string, bool) {
	if e.GetType() != raftpb.EntryNormal {
		return "", false
	}
	outer := bytesFields(e.GetData())
	for _, request := range []map[protowire.Number][]byte{outer, bytesFields(outer[2])} {
		// ID 1 | method 2 | path 3 | value 4 ...
		if slices.Contains(v2Methods, string(request[2])) && len(request[3]) > 0 {
			return string(request[3]), true
		}
	}
	return "", false
}

var v2Methods = []string{"POST", "PUT", "DELETE", "QGET", "SYNC", "GET", "HEAD"}

// bytesFields are the fields of a message that hold bytes; none if it is no message.
func bytesFields(b []byte) map[protowire.Number][]byte {
	fields := map[protowire.Number][]byte{}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil
		}
		b = b[n:]
		if typ == protowire.BytesType {
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return nil
			}
			fields[num] = v
			b = b[n:]
			continue
		}
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return nil
		}
		b = b[n:]
	}
	return fields
}

// freeSpace is what a file system has left for this user, in bytes.
func freeSpace(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return uint64(st.Bavail) * uint64(st.Bsize), nil
}

// hasFiles says whether a directory has files with an ending.
func hasFiles(dir, suffix string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && slices.ContainsFunc(entries, func(e os.DirEntry) bool { return strings.HasSuffix(e.Name(), suffix) })
}
