package images

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/keelson-io/keelson/orchestrator/node/images/registry"
)

// service is a store as CRI has it.
type service struct {
	runtimeapi.UnimplementedImageServiceServer
	s *Store
}

// NewService returns the image service of CRI on a store.
func NewService(s *Store) runtimeapi.ImageServiceServer { return &service{s: s} }

// streamed is how many images one message of a stream holds.
const streamed = 100

func (v *service) ListImages(_ context.Context, req *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	all, err := v.list(req.GetFilter())
	if err != nil {
		return nil, rpcError(err)
	}
	return &runtimeapi.ListImagesResponse{Images: all}, nil
}

func (v *service) StreamImages(req *runtimeapi.StreamImagesRequest, to runtimeapi.ImageService_StreamImagesServer) error {
	all, err := v.list(req.GetFilter())
	if err != nil {
		return rpcError(err)
	}
	for part := range slices.Chunk(all, streamed) {
		if err := to.Send(&runtimeapi.StreamImagesResponse{Images: part}); err != nil {
			return err
		}
	}
	return nil
}

func (v *service) list(f *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	if name := f.GetImage().GetImage(); name != "" {
		img, err := v.s.Resolve(name)
		if errors.Is(err, ErrNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return []*runtimeapi.Image{criImage(img)}, nil
	}
	all, err := v.s.List()
	if err != nil {
		return nil, err
	}
	out := make([]*runtimeapi.Image, len(all))
	for i, img := range all {
		out[i] = criImage(img)
	}
	return out, nil
}

func (v *service) ImageStatus(_ context.Context, req *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	img, err := v.s.Resolve(req.GetImage().GetImage())
	if errors.Is(err, ErrNotFound) {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	if err != nil {
		return nil, rpcError(err)
	}
	out := &runtimeapi.ImageStatusResponse{Image: criImage(img)}
	if req.GetVerbose() {
		b, err := json.Marshal(map[string]any{"imageSpec": img.Config, "manifest": img.Manifest, "added": img.Added, "lastUsed": img.LastUsed})
		if err != nil {
			return nil, rpcError(err)
		}
		out.Info = map[string]string{"info": string(b)}
	}
	return out, nil
}

func (v *service) PullImage(ctx context.Context, req *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	pull := PullRequest{Ref: req.GetImage().GetImage()}
	if a := req.GetAuth(); a != nil {
		pull.Auth = &Auth{
			Username: a.GetUsername(), Password: a.GetPassword(), Auth: a.GetAuth(), IdentityToken: a.GetIdentityToken(),
			RegistryToken: a.GetRegistryToken(), ServerAddress: a.GetServerAddress(),
		}
	}
	img, err := v.s.Pull(ctx, pull)
	if err != nil {
		return nil, rpcError(err)
	}
	return &runtimeapi.PullImageResponse{ImageRef: img.ID}, nil
}

// RemoveImage removes an image with all its names, whichever of them it is asked by.
func (v *service) RemoveImage(_ context.Context, req *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	img, err := v.s.Resolve(req.GetImage().GetImage())
	if err == nil {
		_, err = v.s.Remove(img.ID)
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, rpcError(err)
	}
	return &runtimeapi.RemoveImageResponse{}, nil
}

func (v *service) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	images, containers, err := v.s.FsUsage()
	if err != nil {
		return nil, rpcError(err)
	}
	now := v.s.clk.Now().UnixNano()
	usage := func(u Usage) []*runtimeapi.FilesystemUsage {
		return []*runtimeapi.FilesystemUsage{{
			Timestamp: now, FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: u.Dir},
			UsedBytes:  &runtimeapi.UInt64Value{Value: uint64(u.Bytes)},
			InodesUsed: &runtimeapi.UInt64Value{Value: uint64(u.Inodes)},
		}}
	}
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: usage(images), ContainerFilesystems: usage(containers)}, nil
}

// criImage is an image as CRI has it.
func criImage(img Image) *runtimeapi.Image {
	out := &runtimeapi.Image{
		Id: img.ID, RepoTags: img.RepoTags, RepoDigests: img.RepoDigests, Size: uint64(img.Size), Pinned: img.Pinned,
		Spec: &runtimeapi.ImageSpec{Image: img.ID},
	}
	user, _, _ := strings.Cut(img.Config.Config.User, ":")
	if uid, err := strconv.ParseInt(user, 10, 64); err == nil {
		out.Uid = &runtimeapi.Int64Value{Value: uid}
	} else {
		out.Username = user
	}
	return out
}

// rpcError gives an error the code by which the agent tells what to do. Agents know that a registry cannot be reached by how
// the text begins.
func rpcError(err error) error {
	code := codes.Unknown
	text := err.Error()
	switch {
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, ErrNotFound):
		code = codes.NotFound
	case errors.Is(err, registry.ErrUnauthorized):
		code = codes.PermissionDenied
	case errors.Is(err, registry.ErrUnavailable):
		code, text = codes.Unavailable, crierrors.ErrRegistryUnavailable.Error()+": "+text
	case errors.Is(err, ErrInvalid):
		code = codes.InvalidArgument
	case errors.Is(err, ErrInUse):
		code = codes.FailedPrecondition
	case errors.Is(err, ErrCorrupt):
		code = codes.DataLoss
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		code = codes.ResourceExhausted
	}
	return status.Error(code, text)
}
