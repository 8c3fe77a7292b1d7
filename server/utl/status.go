package utl

import (
	"fmt"
	"hash/crc32"

	"github.com/coreos/go-semver/semver"
	"github.com/spf13/cobra"
	"go.etcd.io/bbolt"

	"github.com/keelson-io/keelson/mvcc"
	"github.com/keelson-io/keelson/mvcc/backend"
)

// Status is what a database file holds.
type Status struct {
	Hash      uint32 `json:"hash"` // CRC32-Castagnoli of all buckets' names, keys and values
	Revision  int64  `json:"revision"`
	TotalKey  int    `json:"totalKey"`
	TotalSize int64  `json:"totalSize"` // of the database, without a checksum behind it
	Version   string `json:"version"`   // of the storage, "" before 3.6
}

func (u *utl) snapshot() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot <subcommand>",
		Short: "Works on snapshots of a member",
	}
	cmd.AddCommand(u.restore(), u.status())
	return cmd
}

func (u *utl) status() *cobra.Command {
	return &cobra.Command{
		Use:   "status <filename>",
		Short: "Prints what a snapshot holds",
		Long: `Checks a snapshot or database file and prints what it holds. The simple format is: hash, revision, total keys,
total size, storage version.
`,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return badArgs("snapshot status requires exactly one argument")
			}
			if err := isFile(args[0]); err != nil {
				return err
			}
			if err := u.checkFormat(); err != nil {
				return err
			}
			var st Status
			if err := u.readFile(args[0], func(tx *bbolt.Tx) (err error) {
				st, err = statusOf(tx)
				return err
			}); err != nil {
				return err
			}
			return u.print(st)
		},
	}
}

var (
	metaBucket        = []byte("meta")
	keyBucket         = []byte("key")
	storageVersionKey = []byte("storageVersion")
)

func statusOf(tx *bbolt.Tx) (Status, error) {
	st := Status{TotalSize: tx.Size()}
	if meta := tx.Bucket(metaBucket); meta != nil {
		if v, err := semver.NewVersion(string(meta.Get(storageVersionKey))); err == nil {
			st.Version = v.String()
		}
	}
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	live := map[string]struct{}{}
	err := tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
		if b == nil {
			return fmt.Errorf("nil bucket: %q", name)
		}
		h.Write(name)
		revisions := string(name) == string(keyBucket)
		return b.ForEach(func(k, v []byte) error {
			h.Write(k)
			h.Write(v)
			if !revisions {
				return nil
			}
			return st.count(live, k, v)
		})
	})
	st.TotalKey, st.Hash = len(live), h.Sum32()
	return st, err
}

// count takes a revision into account.
func (s *Status) count(live map[string]struct{}, k, v []byte) error {
	r, tombstone, err := backend.ParseKey(k)
	if err != nil {
		return fmt.Errorf("cannot parse revision key: %q err: %w", k, err)
	}
	kv := mvcc.KV(v)
	if err := kv.Check(); err != nil {
		return fmt.Errorf("cannot unmarshal the value of revision %d/%d: %w", r.Main, r.Sub, err)
	}
	s.Revision = r.Main
	if key := kv.Parse().Key; tombstone {
		delete(live, string(key))
	} else {
		live[string(key)] = struct{}{}
	}
	return nil
}
