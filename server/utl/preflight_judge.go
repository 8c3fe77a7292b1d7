package utl

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/coreos/go-semver/semver"
	"github.com/dustin/go-humanize"
	"go.etcd.io/raft/v3/raftpb"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/internal/vfs"
	"github.com/keelson-io/keelson/server/apply"
	"github.com/keelson-io/keelson/server/membership"
	"github.com/keelson-io/keelson/server/quota"
	"github.com/keelson-io/keelson/wal"
)

// inspection is a preflight under way.
type inspection struct {
	*Preflight
	o             preflightOptions
	wal, snap, db string // paths
	running       bool   // a process has the database open
	log           *logSeen
	data          *dbSeen
	self          *membership.Member // nil: not found
	version       *semver.Version    // of etcd that wrote it, up to the minor number; nil: not found out
}

// inspect looks at a data directory. An error says that there is none.
func inspect(o preflightOptions) (*Preflight, error) {
	i := &inspection{Preflight: &Preflight{Dir: o.dir}, o: o}
	if err := i.layout(); err != nil {
		return nil, err
	}
	i.place()
	i.readLog()
	i.readDB()
	if i.log != nil && i.data != nil {
		i.judgeVersion()
		i.judgeMembers()
		i.judgeIndexes()
		i.judgeEntries()
		i.judgeContents()
	}
	i.judgeV2()
	i.conclude()
	return i.Preflight, nil
}

// layout finds the parts of the directory.
func (i *inspection) layout() error {
	info, err := os.Stat(i.o.dir)
	switch {
	case err != nil:
		return err
	case info.Mode().IsRegular():
		return fmt.Errorf("%s is a file: for a snapshot see `utl snapshot status` and `utl snapshot restore`", i.o.dir)
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory", i.o.dir)
	}
	member := filepath.Join(i.o.dir, "member")
	i.wal, i.snap = filepath.Join(member, "wal"), filepath.Join(member, "snap")
	if i.o.walDir != "" {
		i.wal = i.o.walDir
	}
	i.db = filepath.Join(i.snap, "db")
	if _, err := os.Stat(member); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(i.o.dir, "snap")); err == nil {
			return fmt.Errorf("%s is the folder \"member\" of a data directory: give the one above it", i.o.dir)
		}
		return fmt.Errorf("%s has no folder \"member\": it is no data directory of etcd", i.o.dir)
	}
	return nil
}

// fileSystems are some kinds of file systems by their magic numbers (statfs(2)).
var fileSystems = map[int64]string{
	0xef53: "ext", 0x58465342: "XFS", 0x9123683e: "Btrfs", 0x2fc12fc1: "ZFS", 0x794c7630: "overlayfs", 0x01021994: "tmpfs",
	0x6969: "NFS", 0xff534d42: "CIFS", 0xfe534d42: "SMB", 0x65735546: "FUSE", 0x01021997: "9p", 0x00c36400: "Ceph",
}

// unsafeFor says why a file system is a bad place for a log.
var unsafeFor = map[string]string{
	"tmpfs": "it is gone with the machine's memory", "NFS": "it is slow, and locks and syncs over the network are not to be relied on",
	"CIFS": "locks and syncs are not to be relied on", "SMB": "locks and syncs are not to be relied on",
	"overlayfs": "it is the layer of a container, and gone with it", "FUSE": "syncs may not be what they seem", "9p": "syncs may not be what they seem",
}

// place looks at where the files are: rights, file system, space.
func (i *inspection) place() {
	info, err := os.Stat(i.o.dir)
	if err != nil {
		i.refuse("%v", err)
		return
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		i.note("rights", "the directory belongs to user %d, this is user %d: Keelson is to run as that one, or the files are to be given away", st.Uid, os.Geteuid())
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		i.note("rights", "others than the owner have rights on the directory (%#o): chmod 700 %s", perm, i.o.dir)
	}
	for _, path := range []string{i.o.dir, i.snap, i.wal, i.db} {
		if err := unix.Access(path, unix.R_OK|unix.W_OK); err != nil && !errors.Is(err, unix.ENOENT) {
			i.first("give this user the right to read and write %s (%v), or run as the user whose it is", path, err)
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(i.o.dir, &st); err != nil {
		return
	}
	kind := fileSystems[int64(st.Type)]
	if kind == "" {
		kind = fmt.Sprintf("of the kind %#x", st.Type)
	}
	tell := i.tell
	why := unsafeFor[kind]
	if why != "" {
		tell, why = i.note, ": "+why
	}
	free := uint64(st.Bavail) * uint64(st.Bsize)
	tell("file system", "%s, %s free%s", kind, humanize.IBytes(free), why)
	if db, err := os.Stat(i.db); err == nil && free < uint64(db.Size())+256<<20 {
		i.note("file system", "there should be room for a second copy of the database (%s), for a defragmentation, and for new segments of the log", humanize.IBytes(uint64(db.Size())))
	}
}

func (i *inspection) readLog() {
	if !wal.Exist(vfs.OS, i.wal) {
		i.refuse("there is no log in %s; if it is elsewhere, say where with --wal-dir; if it is lost, `utl snapshot restore --skip-hash-check %s`", i.wal, i.db)
		return
	}
	log, err := readLog(i.wal)
	if err != nil {
		var damaged *wal.CorruptError
		if errors.As(err, &damaged) {
			i.refuse("the log is damaged: %s, at offset %d: %s; %s", damaged.File, damaged.Offset, damaged.Reason, damaged.Advice)
			return
		}
		i.refuse("the log cannot be read: %v", err)
		return
	}
	i.log = log
	i.tell("log", "member %x of cluster %x, snapshot at %d, %d entries up to %d, committed up to %d, term %d",
		log.node, log.cluster, log.marker.GetIndex(), len(log.Entries), log.last(), log.HardState.GetCommit(), log.HardState.GetTerm())
	if log.Torn {
		i.note("log", "its end is torn, as after a crash: Keelson cuts it off at the start, and keeps a copy")
	}
}

func (i *inspection) readDB() {
	if _, err := os.Stat(i.db); err != nil {
		if hasFiles(i.snap, ".snap.db") {
			i.first("start the etcd that wrote this once and stop it in order: a database that it received (*.snap.db) is not yet in its place")
		} else {
			i.refuse("there is no database: %v; remove the member from its cluster and add it anew, or restore a snapshot", err)
		}
		return
	}
	var err error
	if i.running, err = held(i.db); err != nil {
		i.refuse("the database cannot be opened: %v", err)
		return
	}
	path, whole := i.db, true
	if i.running {
		i.first("stop the process that has %s open (SIGTERM, so that it ends in order)", i.db)
		if path, whole, err = copyRunning(i.db); err != nil {
			i.note("database", "in use by another process, and it was not copied: %v", err)
			return
		}
		defer os.Remove(path)
	}
	data, err := readDB(path, i.o.deep)
	switch {
	case err != nil && !whole:
		i.note("database", "in use by another process that writes too much to copy it: look again when it is stopped")
		return
	case err != nil:
		i.refuse("the database %s cannot be used: %v; restore the member from a snapshot, or remove it from its cluster and add it anew", i.db, err)
		return
	}
	i.data = data
	i.tellDB()
}

func (i *inspection) tellDB() {
	d := i.data
	state := ""
	if i.running {
		state = ", in use by another process"
	}
	size := humanize.IBytes(uint64(d.size))
	if d.inUse > 0 {
		size += ", " + humanize.IBytes(uint64(d.inUse)) + " in use"
	}
	i.tell("database", "%s, revision %d, applied up to %d%s", size, d.revision, d.index, state)
	switch {
	case d.hash != nil:
		i.tell("database", "every page was checked; hash %x, as `snapshot status` tells it", *d.hash)
	case d.size > quickPages:
		i.note("database", "too large to check every page unasked: --deep does")
	}
	if free := d.size - d.inUse; d.inUse > 0 && free > d.size/2 && free > 100<<20 {
		i.note("database", "%.0f %% of it are free pages: `defrag`, before or after", float64(free)*100/float64(d.size))
	}
	if used := cmp.Or(d.inUse, d.size); used > quota.DefaultBytes*8/10 {
		i.note("quota", "up to %s are in use: give --quota-backend-bytes as etcd had it, the default is %s", humanize.IBytes(uint64(used)), humanize.IBytes(uint64(quota.DefaultBytes)))
	}
	for _, a := range d.alarms {
		i.note("alarms", "%s is raised, and stays so", a)
		if strings.HasPrefix(a, "CORRUPT") {
			i.refuse("the cluster has found that its data differ (%s): find out which member is right first", a)
		}
	}
}

// newest is the newest version whose files are known.
var newest = semver.Version{Major: latestStorage.Major, Minor: latestStorage.Minor}

// judgeVersion finds out which etcd wrote the directory.
func (i *inspection) judgeVersion() {
	d := i.data
	cluster, storage := parseMinor(d.clusterVersion), parseMinor(d.storage)
	switch {
	case storage != nil:
		i.version = storage
	case cluster != nil && cluster.Minor >= 5 && d.hasTerm:
		i.version = cluster
	case d.hasTerm:
		i.version = &semver.Version{Major: 3, Minor: 5}
	default:
		i.version = &semver.Version{Major: 3, Minor: 4}
		if cluster != nil && cluster.LessThan(*i.version) {
			i.version = cluster
		}
	}
	told := d.clusterVersion
	if told == "" {
		told = "not decided"
	}
	recorded := "none, as before 3.6"
	if d.storage != "" {
		recorded = d.storage
	}
	i.tell("version", "files of etcd %s; version of the cluster %s, of the storage %s", short(i.version), told, recorded)
	for what, v := range map[string]*semver.Version{"storage": storage, "cluster": cluster} {
		if v != nil && newest.LessThan(*v) {
			i.refuse("the version of the %s, %s, is newer than %s, the newest that Keelson knows: use a newer Keelson", what, short(v), short(&newest))
		}
	}
	if d.downgrade.Enabled {
		i.first("a downgrade to %s is under way: finish it, or end it with `etcdctl downgrade cancel`", d.downgrade.TargetVersion)
	}
	if i.before(3, 4) {
		i.first("etcd before 3.4 is not known: upgrade to 3.4 first")
	}
}

// before says whether a version before this one wrote the directory.
func (i *inspection) before(major, minor int64) bool {
	return i.version != nil && i.version.LessThan(semver.Version{Major: major, Minor: minor})
}

// parseMinor is a version up to its minor number, nil if it is none.
func parseMinor(s string) *semver.Version {
	v, err := semver.NewVersion(s)
	if err != nil {
		return nil
	}
	return &semver.Version{Major: v.Major, Minor: v.Minor}
}

// judgeMembers looks for this member among those of the cluster.
func (i *inspection) judgeMembers() {
	voters := 0
	for _, m := range i.data.members {
		kind := "voter"
		if m.IsLearner {
			kind = "learner"
		} else {
			voters++
		}
		self := ""
		if m.ID == i.log.node {
			i.self, self = m, ", this one"
		}
		i.tell("member", "%x %q %s, peers %s, clients %s%s", m.ID, m.Name, kind, strings.Join(m.PeerURLs, " "), strings.Join(m.ClientURLs, " "), self)
	}
	switch {
	case i.data.removed[i.log.node]:
		i.refuse("this member (%x) was removed from its cluster: add a new one, with an empty data directory", i.log.node)
	case len(i.data.members) == 0 && i.log.last() > 0:
		i.refuse("the database names no members: start the etcd that wrote this once, so that it writes them, and stop it in order")
	case i.self == nil && len(i.data.members) > 0:
		i.refuse("this member (%x) is not among those of its cluster: log and database do not belong together", i.log.node)
	case i.self != nil && i.self.IsLearner:
		i.note("member", "this one is a learner: it takes part, and can be promoted later")
	}
	if voters > 1 && i.before(3, 6) {
		i.first("a cluster of etcd %s takes no member of version 3.7: either upgrade it to 3.6 first, member by member, or stop all its members and start all of them as Keelson",
			short(i.version))
	}
}

// judgeIndexes compares log and database.
func (i *inspection) judgeIndexes() {
	index, marker, last := i.data.index, i.log.marker.GetIndex(), i.log.last()
	switch {
	case index > last && !i.running:
		i.refuse("the database has applied up to %d, the log ends at %d: they do not belong together, or the end of the log is lost", index, last)
	case index < marker && hasFiles(i.snap, fmt.Sprintf("%016x.snap.db", marker)):
		i.note("log", "a database that was received at %d is not yet in its place: Keelson puts it there", marker)
	case index < marker && !i.running:
		i.refuse("the database has applied up to %d only, the log begins behind the snapshot at %d, whose database is not there", index, marker)
	case i.log.HardState.GetCommit() > index && !i.running:
		i.tell("log", "%d committed entries are to be applied at the start", i.log.HardState.GetCommit()-index)
	}
}

// judgeEntries asks whether what is to be applied is known.
func (i *inspection) judgeEntries() {
	unknown := map[string]int{}
	v2 := 0
	for _, e := range i.log.Entries {
		if e.GetIndex() <= i.data.index || i.running {
			continue
		}
		if path, ok := v2Path(e); ok && strings.HasPrefix(path, "/0/") {
			v2++
		} else if what := unknownEntry(e); what != "" {
			unknown[what]++
		}
	}
	for what, n := range unknown {
		i.first("the log has %d entries that are not yet applied and not known here (%s): start the etcd that wrote them once and stop it in order", n, what)
	}
	if v2 > 0 {
		i.first("%d entries of the old kind, with names and addresses of members, are not yet applied: start the etcd that wrote them once and stop it in order (SIGTERM)", v2)
	}
}

// unknownEntry says what is not known about an entry, "" if all is.
func unknownEntry(e *raftpb.Entry) string {
	switch {
	case e.GetType() == raftpb.EntryConfChange, e.GetType() == raftpb.EntryNormal && len(e.GetData()) == 0:
		return ""
	case e.GetType() != raftpb.EntryNormal:
		return e.GetType().String()
	}
	r := &pb.InternalRaftRequest{}
	if err := proto.Unmarshal(e.GetData(), r); err != nil {
		return "no command"
	}
	if apply.KindOf(r) == 0 {
		return "a command of an unknown kind"
	}
	return ""
}

// judgeContents tells what else is in the database.
func (i *inspection) judgeContents() {
	d := i.data
	if d.auth {
		i.tell("auth", "on, %d users, %d roles; they and their passwords go with the data", d.users, d.roles)
	} else if d.users > 0 {
		i.tell("auth", "off, %d users, %d roles", d.users, d.roles)
	}
	if d.leases > 0 {
		i.tell("leases", "%d; their time begins anew with the first leader", d.leases)
	}
}

// judgeV2 looks for data of etcd's old store.
func (i *inspection) judgeV2() {
	keys, file, err := readV2(i.snap)
	if err != nil {
		i.note("snapshot", "%s cannot be read: %v", file, err)
	}
	if i.log != nil {
		for _, e := range i.log.Entries {
			if path, ok := v2Path(e); ok && !strings.HasPrefix(path, "/0/") {
				keys++
			}
		}
	}
	if keys > 0 {
		i.first("there are %d keys or requests of the v2 store, which Keelson has not, nor has etcd since 3.6: move them first, with `etcdctl migrate` of etcd 3.4, or be sure that nobody needs them", keys)
	}
}

// conclude draws the conclusion and says how to go on.
func (i *inspection) conclude() {
	switch {
	case len(i.Because) > 0:
		i.Verdict = Not
		return
	case len(i.After) > 0 || i.data == nil:
		i.Verdict = After
	default:
		i.Verdict = AsItIs
	}
	flags := "--data-dir " + i.o.dir
	if i.o.walDir != "" {
		flags += " --wal-dir " + i.o.walDir
	}
	i.Next = append(i.Next, "keelson ctl snapshot save before-keelson.db      # while the cluster runs: a way back, whatever happens")
	if i.self != nil && i.self.Name != "" {
		flags = "--name " + i.self.Name + " " + flags
	}
	i.Next = append(i.Next, "keelson server "+flags+" ...      # and all other flags as etcd had them; ETCD_ variables and --config-file count too")
	if i.data != nil && len(i.data.members) > 1 && !i.before(3, 6) {
		i.Next = append(i.Next, "keelson ctl doctor      # then the next member; the leader last (docs/migration.md)")
	}
}
