// Package bootstrap finds out, from the disk and the configuration, what a member starts from: a data directory of its
// own, a new cluster to found, or a running one to join.
//
//	log exists   --initial-cluster-state   start from
//	yes          (ignored)                 the data directory; a log in which nothing was ever decided counts as none
//	no           new                       a new cluster, unless its members know this one already; its members are configured,
//	                                       or found by SRV records or a discovery service
//	no           existing                  the running cluster, asked for its members
//
// Nothing is written before the configuration has been found to fit. What a newer version of the
// storage wrote is refused.
//
// # Concurrency
//
// Run is called once, before anything else of the member runs.
package bootstrap

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/api/walpb"
	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/internal/srv"
	"github.com/keelson-io/keelson/internal/vfs"
	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/raftnode"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/membership"
	"github.com/keelson-io/keelson/server/replica"
	"github.com/keelson-io/keelson/wal"
	"github.com/keelson-io/keelson/wal/snap"
)

// Env is what bootstrapping needs beside the configuration.
type Env struct {
	FS         vfs.FS
	Clock      clock.Clock
	Peers      *http.Client // for asking other members
	Logger     *zap.Logger
	Registerer prometheus.Registerer
	Names      srv.Resolver // for members that are found by SRV records
	OnError    func(error)  // errors of the backend's background writes
}

// Result is what the member starts from.
type Result struct {
	MemberID  uint64
	Backend   *backend.Backend
	Log       *wal.Log
	Snapshots *snap.Dir
	Members   *membership.Cluster
	Recovered raftnode.Recovered
	Peers     []raft.Peer          // of a new cluster
	Remotes   []*membership.Member // of a running cluster that is joined
	HadLog    bool
	unused    *identity // of a log that is there, and in which nothing was ever decided
}

// Close releases what Run opened.
func (r *Result) Close() error {
	var errs []error
	if r.Log != nil {
		errs = append(errs, r.Log.Close())
	}
	if r.Backend != nil {
		errs = append(errs, r.Backend.Close())
	}
	return errors.Join(errs...)
}

// Run finds out what to start from and opens it.
func Run(ctx context.Context, cfg *config.Config, env Env) (_ *Result, err error) {
	r := &Result{HadLog: wal.Exist(env.FS, cfg.WALPath())}
	defer func() {
		if err != nil {
			_ = r.Close()
		}
	}()
	if r.HadLog {
		if cfg.Bootstrap.Discovery.ByService() {
			env.Logger.Warn("discovery token is ignored since cluster already initialized; valid logs are found", zap.String("wal-dir", cfg.WALPath()))
		}
		if err = r.restart(cfg, env); err != nil {
			return nil, err
		}
		if r.Recovered.HardState != nil {
			return r, r.defragment(ctx, cfg, env.Logger)
		}
		if err = r.startOver(env); err != nil {
			return nil, err
		}
	}
	if r.Members, r.MemberID, r.Remotes, err = newcomer(ctx, cfg, env); err != nil {
		return nil, err
	}
	if err := r.begin(cfg, env); err != nil {
		return nil, err
	}
	return r, r.defragment(ctx, cfg, env.Logger)
}

// defragment rewrites the database if that frees what was asked for.
func (r *Result) defragment(ctx context.Context, cfg *config.Config, lg *zap.Logger) error {
	threshold := int64(cfg.Backend.DefragAtStartMB) << 20
	if threshold == 0 {
		return nil
	}
	size, used := r.Backend.Size(), r.Backend.SizeInUse()
	lg = lg.With(zap.Int64("current-db-size-bytes", size), zap.Int64("current-db-size-in-use-bytes", used),
		zap.Int64("bootstrap-defrag-threshold-bytes", threshold))
	if size-used < threshold {
		lg.Info("Skipping defragmentation")
		return nil
	}
	lg.Info("defragmenting before the start")
	return r.Backend.Defrag(ctx)
}

func logOptions(cfg *config.Config, env Env) wal.Options {
	return wal.Options{UnsafeNoSync: cfg.Unsafe.NoFsync, Logger: env.Logger.Named("wal"), Registerer: env.Registerer, Clock: env.Clock}
}

func snapOptions(env Env) snap.Options {
	return snap.Options{Logger: env.Logger, Registerer: env.Registerer, Clock: env.Clock}
}

// OpenBackend opens the database file as configured.
func OpenBackend(cfg *config.Config, env Env) (*backend.Backend, error) {
	be, err := backend.Open(backend.Config{
		Path:          cfg.BackendPath(),
		BatchInterval: cfg.Backend.BatchInterval,
		BatchLimit:    cfg.Backend.BatchLimit,
		FreelistType:  cfg.Backend.FreelistType,
		NoSync:        cfg.Unsafe.NoFsync,
		MLock:         cfg.Backend.Mlock,
		QuotaHint:     cfg.Backend.QuotaBytes,
		Logger:        env.Logger.Named("backend"),
		Registerer:    env.Registerer,
		Clock:         env.Clock,
		OnError:       env.OnError,
	})
	if errors.Is(err, backend.ErrInUse) {
		return nil, fmt.Errorf("the data directory %s is in use by another process: %w", cfg.DataDir, err)
	}
	return be, err
}

func makeDirs(cfg *config.Config, env Env) error {
	for _, dir := range []string{cfg.DataDir, cfg.MemberDir(), cfg.SnapDir()} {
		if err := makeDir(env.FS, filepath.Clean(dir)); err != nil {
			return fmt.Errorf("data directory: %w", err)
		}
	}
	probe := filepath.Join(cfg.MemberDir(), ".touch")
	f, err := env.FS.OpenFile(probe, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot write to the data directory: %w", err)
	}
	return errors.Join(f.Close(), env.FS.Remove(probe))
}

// makeDir makes a directory, and those above it, so that a power cut does not take them away with all that is in them.
func makeDir(fs vfs.FS, dir string) error {
	if vfs.Exists(fs, dir) {
		return fs.MkdirAll(dir, 0o700) // or says what else is there
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := makeDir(fs, parent); err != nil {
			return err
		}
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := fs.SyncDir(parent); err != nil && !errors.Is(err, os.ErrPermission) { // it may be writable only
		return err
	}
	return nil
}

// restart starts from the data directory.
func (r *Result) restart(cfg *config.Config, env Env) (err error) {
	if err := makeDirs(cfg, env); err != nil {
		return err
	}
	if _, err := env.FS.Stat(cfg.BackendPath()); err != nil {
		// A database that was received and not yet renamed is found below; nothing at all is a loss.
		if dbs, _ := filepath.Glob(filepath.Join(cfg.SnapDir(), "*.snap.db")); len(dbs) == 0 {
			return fmt.Errorf("the log in %s exists but the database %s is missing; restore the member from a snapshot, or remove it from the cluster and add it anew", cfg.WALPath(), cfg.BackendPath())
		}
	}
	if r.Snapshots, err = snap.Open(env.FS, cfg.SnapDir(), snapOptions(env)); err != nil {
		return err
	}
	markers, err := wal.SnapshotMarkers(env.FS, cfg.WALPath())
	if err != nil {
		return err
	}
	var marker *walpb.Snapshot
	if len(markers) > 0 {
		marker = markers[len(markers)-1]
	}
	if err := r.openState(cfg, env, marker); err != nil {
		return err
	}
	log, contents, err := wal.Open(env.FS, cfg.WALPath(), marker, logOptions(cfg, env))
	if err != nil {
		return err
	}
	r.Log = log
	meta := &pb.Metadata{}
	if err := proto.Unmarshal(contents.Metadata, meta); err != nil {
		return fmt.Errorf("metadata of the log: %w", err)
	}
	r.MemberID = meta.GetNodeID()
	r.Members.SetIDs(r.MemberID, meta.GetClusterID())
	r.Recovered = raftnode.Recovered{HardState: contents.HardState, Entries: contents.Entries, Snapshot: r.snapshot(marker)}
	env.Logger.Info("restarting local member", zap.String("cluster-id", hex(meta.GetClusterID())), zap.String("local-member-id", hex(r.MemberID)),
		zap.Uint64("commit-index", contents.HardState.GetCommit()))
	if cfg.Unsafe.ForceNewCluster {
		return r.forceNewCluster(env.Logger)
	}
	return r.checkEnd(env.Logger)
}

// checkEnd refuses a database that is ahead of the log if no other member can send what the log has lost: new entries would take
// the numbers of lost ones, and count as executed already.
func (r *Result) checkEnd(lg *zap.Logger) error {
	applied, _ := r.Backend.ConsistentIndex()
	last := r.Recovered.Snapshot.GetMetadata().GetIndex() + uint64(len(r.Recovered.Entries))
	if applied <= last {
		return nil
	}
	lg.Warn("the database is ahead of the log, whose end is lost", zap.Uint64("applied-index", applied), zap.Uint64("last-index", last))
	if voters := r.Members.VotingMembers(); len(voters) == 1 && voters[0].ID == r.MemberID {
		return fmt.Errorf("the database holds the effects of entry %d, but the log ends at entry %d: its end is lost (was fsync off, or are the files "+
			"of different times?); restore the member from a snapshot of this database (etcdutl snapshot restore --skip-hash-check)", applied, last)
	}
	return nil
}

// startOver is for a member that was stopped after it had created its log and before the first entries of the cluster were in
// it. It has promised nothing to anybody, knows no members, and begins again with the files that are there.
func (r *Result) startOver(env Env) error {
	env.Logger.Warn("nothing was ever decided in the log: the member was stopped while it started for the first time, and starts again",
		zap.String("local-member-id", hex(r.MemberID)))
	r.unused = &identity{member: r.MemberID, cluster: r.Members.ClusterID()}
	r.HadLog, r.Recovered = false, raftnode.Recovered{}
	return r.Backend.Close()
}

// identity is what the metadata of a log says.
type identity struct{ member, cluster uint64 }

// openLog creates the log, or goes on with one that was never used.
func (r *Result) openLog(cfg *config.Config, env Env) (err error) {
	if r.unused != nil {
		if now := (identity{r.MemberID, r.Members.ClusterID()}); *r.unused != now {
			return fmt.Errorf("the log in %s, in which nothing was ever decided, was created for member %s of cluster %s, and this is member %s of cluster %s: "+
				"remove the data directory, or start with the flags of then", cfg.WALPath(), hex(r.unused.member), hex(r.unused.cluster), hex(now.member), hex(now.cluster))
		}
		return nil
	}
	meta, err := proto.Marshal(&pb.Metadata{NodeID: proto.Uint64(r.MemberID), ClusterID: proto.Uint64(r.Members.ClusterID())})
	if err != nil {
		return err
	}
	r.Log, err = wal.Create(env.FS, cfg.WALPath(), meta, logOptions(cfg, env))
	return err
}

// openState opens the backend. If the log says that a newer snapshot was received, its database is put in place first.
func (r *Result) openState(cfg *config.Config, env Env, marker *walpb.Snapshot) (err error) {
	if r.Backend, err = OpenBackend(cfg, env); err != nil {
		return err
	}
	index, _ := r.Backend.ConsistentIndex()
	if marker.GetIndex() > index {
		if err := r.Backend.Close(); err != nil {
			return err
		}
		r.Backend = nil
		path, err := r.Snapshots.DBPath(marker.GetIndex())
		if err != nil {
			return fmt.Errorf("failed to find database snapshot file (%w); the database %s (index %d) is older than the snapshot at index %d, whose own is not in %s",
				err, cfg.BackendPath(), index, marker.GetIndex(), cfg.SnapDir())
		}
		if r.Backend, err = Install(cfg, env, path); err != nil {
			return err
		}
	}
	if err := checkState(r.Backend); err != nil {
		return fmt.Errorf("data directory %s: %w", cfg.DataDir, err)
	}
	r.Members, err = membership.Load(membership.Config{MaxLearners: cfg.Bootstrap.MaxLearners, Logger: env.Logger, Registerer: env.Registerer}, replica.Tables{Backend: r.Backend})
	if err == nil { // another program may have left the one behind the other
		replica.SetStorageVersion(r.Backend, r.Members.Version())
	}
	return err
}

// Install puts a received database file in the place of the backend's and opens it.
func Install(cfg *config.Config, env Env, path string) (*backend.Backend, error) {
	if err := env.FS.Rename(path, cfg.BackendPath()); err != nil {
		return nil, err
	}
	if err := env.FS.SyncDir(cfg.SnapDir()); err != nil {
		return nil, err
	}
	return OpenBackend(cfg, env)
}

// snapshot is the snapshot that raft starts from: its index and term from the log, its configuration from the backend,
// which may be newer; the entries up to the backend's index are not applied again.
func (r *Result) snapshot(marker *walpb.Snapshot) *raftpb.Snapshot {
	cs := &raftpb.ConfState{}
	for _, m := range r.Members.Members() {
		if m.IsLearner {
			cs.Learners = append(cs.Learners, m.ID)
		} else {
			cs.Voters = append(cs.Voters, m.ID)
		}
	}
	return &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
		Index: proto.Uint64(marker.GetIndex()), Term: proto.Uint64(marker.GetTerm()), ConfState: cs,
	}}
}

// newestStorage is the newest storage version that this version reads.
const newestStorage = "3.7"

func checkState(be *backend.Backend) error {
	if v := replica.StorageVersion(be); v != "" {
		newer, err := membership.NewerVersion(v, newestStorage)
		if err != nil {
			return fmt.Errorf("storage version %q: %w", v, err)
		}
		if newer {
			return fmt.Errorf("storage version %s is newer than %s, the newest that this version knows", v, newestStorage)
		}
	}
	return nil
}

// newcomer finds the cluster of a member without a log.
func newcomer(ctx context.Context, cfg *config.Config, env Env) (*membership.Cluster, uint64, []*membership.Member, error) {
	mcfg := membership.Config{MaxLearners: cfg.Bootstrap.MaxLearners, Logger: env.Logger, Registerer: env.Registerer}
	initial, token, err := configured(ctx, cfg, env)
	if err != nil {
		return nil, 0, nil, err
	}
	cl, err := membership.NewFromInitialCluster(mcfg, token, initial)
	if err != nil {
		return nil, 0, nil, err
	}
	if err := cl.CheckSelf(cfg.Name, cfg.Listen.AdvertisePeerURLs, !cfg.Bootstrap.Existing); err != nil {
		return nil, 0, nil, err
	}
	self := cl.MemberByName(cfg.Name)
	others := cl.RemotePeerURLs(cfg.Name)
	if !cfg.Bootstrap.Existing {
		if membership.IsBootstrapped(ctx, env.Peers, others, self.ID, bootstrapTimeout(cfg)) {
			return nil, 0, nil, fmt.Errorf("member %s has already been bootstrapped", hex(self.ID))
		}
		if cfg.Bootstrap.Discovery.ByService() {
			cl, err = byService(ctx, cfg, env, mcfg, self.ID)
		}
		if err != nil {
			return nil, 0, nil, err
		}
		return cl, self.ID, nil, nil
	}
	if cfg.Bootstrap.Discovery.ByService() {
		return nil, 0, nil, errors.New("discovery URL should not be set when joining existing initial cluster")
	}
	running, err := membership.FetchCluster(ctx, env.Peers, others)
	if err != nil {
		return nil, 0, nil, fmt.Errorf("cannot fetch cluster info from peer urls: %w", err)
	}
	if err := cl.AdoptIDs(running); err != nil {
		return nil, 0, nil, fmt.Errorf("error validating peerURLs %s: %w", strings.Join(others, ","), err)
	}
	if err := membership.CheckCompatible(ctx, env.Peers, running, cl.MemberByName(cfg.Name).ID); err != nil {
		return nil, 0, nil, fmt.Errorf("incompatible with current running cluster: %w", err)
	}
	return cl, cl.MemberByName(cfg.Name).ID, running.Members(), nil
}

func bootstrapTimeout(cfg *config.Config) time.Duration {
	return min(cfg.RequestTimeout(), time.Second)
}

// begin creates the files of a member without a log.
func (r *Result) begin(cfg *config.Config, env Env) (err error) {
	if err := makeDirs(cfg, env); err != nil {
		return err
	}
	if r.Backend, err = OpenBackend(cfg, env); err != nil {
		return err
	}
	if r.Snapshots == nil { // it also makes sure that the database is there when the log is
		if r.Snapshots, err = snap.Open(env.FS, cfg.SnapDir(), snapOptions(env)); err != nil {
			return err
		}
	}
	if err := r.openLog(cfg, env); err != nil {
		return err
	}
	if !cfg.Bootstrap.Existing {
		if r.Peers, err = r.raftPeers(); err != nil {
			return err
		}
	}
	r.Members.SetIDs(r.MemberID, r.Members.ClusterID())
	env.Logger.Info("starting local member", zap.String("cluster-id", hex(r.Members.ClusterID())), zap.String("local-member-id", hex(r.MemberID)))
	return r.Members.Attach(replica.Tables{Backend: r.Backend})
}

func (r *Result) raftPeers() ([]raft.Peer, error) {
	var peers []raft.Peer
	for _, m := range r.Members.Members() {
		data, err := json.Marshal(m)
		if err != nil {
			return nil, err
		}
		peers = append(peers, raft.Peer{ID: m.ID, Context: data})
	}
	return peers, nil
}

func hex(id uint64) string { return fmt.Sprintf("%x", id) }
