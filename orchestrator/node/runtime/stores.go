//go:build linux

package runtime

import (
	"context"
	"errors"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/keelson-io/keelson/orchestrator/node/images"
)

// FromStore makes an image store of the node the one that containers are made from.
func FromStore(s *images.Store) Images { return imageStore{s} }

type imageStore struct{ s *images.Store }

func (i imageStore) Resolve(ref string) (Image, error) {
	found, err := i.s.Resolve(ref)
	if errors.Is(err, images.ErrNotFound) {
		return Image{}, ErrNoImage
	}
	if err != nil {
		return Image{}, err
	}
	return Image{ID: found.ID, RepoTags: found.RepoTags, RepoDigests: found.RepoDigests, Config: found.Config.Config}, nil
}

func (i imageStore) Mount(ctx context.Context, m MountRequest) error {
	return i.s.Mount(ctx, images.MountRequest{
		Key: m.Key, Image: m.Image, Target: m.Target, ReadOnly: m.ReadOnly, UIDs: idMappings(m.UIDs), GIDs: idMappings(m.GIDs),
	})
}

func idMappings(in []specs.LinuxIDMapping) (out []images.IDMapping) {
	for _, m := range in {
		out = append(out, images.IDMapping{ContainerID: m.ContainerID, HostID: m.HostID, Size: m.Size})
	}
	return out
}

func (i imageStore) Unmount(key string) error { return i.s.Unmount(key) }

func (i imageStore) Usage(key string) (bytes, inodes uint64, err error) {
	b, n, err := i.s.Usage(key)
	if errors.Is(err, images.ErrNotFound) {
		return 0, 0, nil
	}
	return uint64(b), uint64(n), err
}

func (i imageStore) Mounted() ([]string, error) { return i.s.Mounted(), nil }
