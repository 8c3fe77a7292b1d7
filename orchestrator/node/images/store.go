package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/node/images/registry"
)

// What errors of this package are, besides those of package registry.
var (
	ErrNotFound = registry.ErrNotFound
	ErrInvalid  = registry.ErrInvalid
	ErrCorrupt  = errors.New("corrupt")
	ErrInUse    = errors.New("in use")
)

// Config says how a store works. The zero value is good.
type Config struct {
	// Registries says how registries are reached.
	Registries registry.Config
	// Platform of images that are taken from an index; that of this machine.
	Platform *ocispec.Platform
	// Parallel is how many blobs are downloaded at a time by all pulls; 4.
	Parallel int
	// Settle is after how long new layers are written to the disk for good; 5 s. Layers that were not when the machine went
	// down are unpacked again.
	Settle time.Duration
	Clock  clock.Clock
	Logger *zap.Logger
}

// Store holds images in a directory. Several processes may have it open.
type Store struct {
	dir       string
	cfg       Config
	lg        *zap.Logger
	clk       clock.Clock
	client    *registry.Client
	downloads *semaphore.Weighted
	unpacks   *semaphore.Weighted
	boot      string // what tells this start of the machine from others
	settler   *settler

	mu    sync.Mutex
	seen  os.FileInfo // of the index that records are of
	known []record    // sorted by ID; never modified
}

// version is what the directory's file of that name says.
const version = "keelson images 1\n"

// Names in a store's directory.
const (
	blobsDir  = "blobs/sha256" // manifests, configurations and compressed layers, by digest
	layersDir = "layers"       // unpacked layers
	mountsDir = "mounts"       // writable layers, by key
	ingestDir = "ingest"       // blobs and layers on their way, and their locks
	tmpDir    = "tmp"          // of operations
	usedDir   = "used"         // files by image, whose time is that of the last use
	indexFile = "images.json"
	lockName  = "lock"
)

// partialAge is for how long a blob that nobody goes on with is kept.
const partialAge = 24 * time.Hour

// Open opens the store in a directory, which is made if it is not there, and removes what processes that ended have left
// half done.
func Open(dir string, cfg Config) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("images: %w", err)
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.Real
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.Parallel <= 0 {
		cfg.Parallel = 4
	}
	if cfg.Settle <= 0 {
		cfg.Settle = 5 * time.Second
	}
	s := &Store{
		dir: dir, cfg: cfg, lg: cfg.Logger, clk: cfg.Clock, client: registry.New(cfg.Registries), boot: bootID(),
		downloads: semaphore.NewWeighted(int64(cfg.Parallel)), unpacks: semaphore.NewWeighted(int64(max(2, runtime.GOMAXPROCS(0)))),
	}
	dirs := []string{blobsDir, layersDir, mountsDir, ingestDir, tmpDir, usedDir}
	for _, d := range []string{"fs", "none"} { // an overlay does not take one directory twice
		dirs = append(dirs, filepath.Join(layersDir, emptyLayer, d))
	}
	for _, d := range dirs {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("images: %w", err)
		}
	}
	if err := s.checkVersion(); err != nil {
		return nil, err
	}
	if err := s.recover(); err != nil {
		return nil, err
	}
	s.settler = newSettler(s)
	return s, nil
}

// Close ends background work. What is mounted stays mounted.
func (s *Store) Close() error {
	s.settler.stop()
	s.client.Close()
	return nil
}

// Dir is the directory of the store.
func (s *Store) Dir() string { return s.dir }

func (s *Store) checkVersion() error {
	path := filepath.Join(s.dir, "version")
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return writeFile(path, []byte(version))
	}
	if err != nil {
		return fmt.Errorf("images: %w", err)
	}
	if string(b) != version {
		return fmt.Errorf("images: %s is of another version (%q, want %q)", s.dir, strings.TrimSpace(string(b)), strings.TrimSpace(version))
	}
	return nil
}

// recover removes what operations that ended have left.
func (s *Store) recover() error {
	var rubbish []string
	err := s.locked(func() error {
		unsettled, err := s.unsettled()
		rubbish = append(s.leftovers(), unsettled...)
		return err
	})
	if err != nil {
		return err
	}
	s.discard(rubbish)
	s.recoverIngest()
	return nil
}

// recoverIngest removes parts of blobs that nobody has gone on with.
func (s *Store) recoverIngest() {
	for _, d := range []string{blobsDir, "."} {
		left, _ := filepath.Glob(filepath.Join(s.dir, d, ".new-*"))
		for _, path := range left {
			if info, err := os.Stat(path); err == nil && s.clk.Now().Sub(info.ModTime()) > partialAge {
				_ = os.Remove(path)
			}
		}
	}
	entries, _ := os.ReadDir(filepath.Join(s.dir, ingestDir))
	for _, e := range entries {
		path := filepath.Join(s.dir, ingestDir, e.Name())
		info, err := e.Info()
		if err != nil || e.IsDir() {
			continue
		}
		if info.Size() > 0 && s.clk.Now().Sub(info.ModTime()) < partialAge {
			continue
		}
		if f, err := flock(path, unix.LOCK_EX|unix.LOCK_NB); err == nil {
			_ = os.Remove(path)
			_ = f.Close()
		}
	}
}

// locked runs f while no other process and goroutine changes what images, layers and blobs there are. It is short.
func (s *Store) locked(f func() error) error {
	l, err := flock(filepath.Join(s.dir, lockName), unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	return f()
}

// blobPath is where a blob lies.
func (s *Store) blobPath(d digest.Digest) string {
	return filepath.Join(s.dir, blobsDir, d.Encoded())
}

func (s *Store) hasBlob(d digest.Digest) bool {
	_, err := os.Stat(s.blobPath(d))
	return err == nil
}

// readBlob reads a manifest or a configuration.
func (s *Store) readBlob(d digest.Digest) ([]byte, error) {
	b, err := os.ReadFile(s.blobPath(d))
	if err != nil {
		return nil, fmt.Errorf("images: blob %s: %w", d, err)
	}
	if digest.FromBytes(b) != d {
		return nil, fmt.Errorf("images: blob %s is %w", d, ErrCorrupt)
	}
	return b, nil
}

// putBlob stores a small blob.
func (s *Store) putBlob(b []byte) (digest.Digest, error) {
	d := digest.FromBytes(b)
	if s.hasBlob(d) {
		return d, nil
	}
	return d, writeFile(s.blobPath(d), b)
}

// writeFile replaces a file so that after a crash there is the old one or the new one.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("images: %w", err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("images: write %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("images: %w", err)
	}
	defer func() { _ = d.Close() }()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("images: sync %s: %w", dir, err)
	}
	return nil
}

// bootID tells this start of the machine from others; it is empty where the system has none.
func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

// acquire takes a slot of a semaphore and returns what gives it back.
func acquire(ctx context.Context, sem *semaphore.Weighted) (func(), error) {
	if err := sem.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("images: %w", err)
	}
	return func() { sem.Release(1) }, nil
}
