package images

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/internal/testkit"
)

// dial serves a store over gRPC.
func dial(t testing.TB, s *Store) runtimeapi.ImageServiceClient {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := grpc.NewServer()
	runtimeapi.RegisterImageServiceServer(srv, NewService(s))
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, conn.Close())
		srv.Stop()
		require.NoError(t, <-done)
	})
	return runtimeapi.NewImageServiceClient(conn)
}

func spec(name string) *runtimeapi.ImageSpec { return &runtimeapi.ImageSpec{Image: name} }

func TestService(t *testing.T) {
	testkit.Root(t)
	ctx := context.Background()
	r := serve(t)
	s := open(t, Config{})
	c := dial(t, s)
	withUser := func(user string) v1.Image {
		img, err := mutate.Config(image(t, content{"user": text(user)}), v1.Config{User: user})
		require.NoError(t, err)
		return img
	}
	ref := r.put(t, "a:v1", withUser("1000:5"))
	named := r.put(t, "b:v1", withUser("www:web"))

	status0, err := c.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec(ref)})
	require.NoError(t, err)
	require.Nil(t, status0.Image, "an image that is not there is no error")

	pulled, err := c.PullImage(ctx, &runtimeapi.PullImageRequest{Image: spec(ref)})
	require.NoError(t, err)
	_, err = c.PullImage(ctx, &runtimeapi.PullImageRequest{Image: spec(named)})
	require.NoError(t, err)

	for _, name := range []string{ref, pulled.ImageRef} {
		st, err := c.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec(name), Verbose: true})
		require.NoError(t, err)
		require.Equal(t, pulled.ImageRef, st.Image.Id)
		require.Equal(t, []string{ref}, st.Image.RepoTags)
		require.Len(t, st.Image.RepoDigests, 1)
		require.Positive(t, st.Image.Size)
		require.Equal(t, int64(1000), st.Image.Uid.GetValue())
		require.Empty(t, st.Image.Username)
		var info struct {
			ImageSpec struct{ Config struct{ User string } }
		}
		require.NoError(t, json.Unmarshal([]byte(st.Info["info"]), &info))
		require.Equal(t, "1000:5", info.ImageSpec.Config.User)
	}
	st, err := c.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec(named)})
	require.NoError(t, err)
	require.Nil(t, st.Image.Uid)
	require.Equal(t, "www", st.Image.Username)
	require.Empty(t, st.Info)

	require.NoError(t, s.Pin(named, true))
	list, err := c.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	require.NoError(t, err)
	require.Len(t, list.Images, 2)
	for _, img := range list.Images {
		require.Equal(t, img.Id != pulled.ImageRef, img.Pinned)
	}
	one, err := c.ListImages(ctx, &runtimeapi.ListImagesRequest{Filter: &runtimeapi.ImageFilter{Image: spec(ref)}})
	require.NoError(t, err)
	require.Len(t, one.Images, 1)
	none, err := c.ListImages(ctx, &runtimeapi.ListImagesRequest{Filter: &runtimeapi.ImageFilter{Image: spec("none")}})
	require.NoError(t, err)
	require.Empty(t, none.Images)
	stream, err := c.StreamImages(ctx, &runtimeapi.StreamImagesRequest{})
	require.NoError(t, err)
	part, err := stream.Recv()
	require.NoError(t, err)
	require.Len(t, part.Images, 2)

	fs, err := c.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	require.NoError(t, err)
	require.Equal(t, s.Dir(), fs.ImageFilesystems[0].FsId.Mountpoint)
	require.Positive(t, fs.ImageFilesystems[0].UsedBytes.Value)
	require.Positive(t, fs.ImageFilesystems[0].InodesUsed.Value)
	require.Positive(t, fs.ImageFilesystems[0].Timestamp)

	require.NoError(t, s.Tag(ref, "second:v1"))
	for range 2 {
		_, err = c.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: spec(ref)})
		require.NoError(t, err, "also when it is gone")
	}
	st, err = c.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec("second:v1")})
	require.NoError(t, err)
	require.Nil(t, st.Image, "by one name it goes with all")
	_, err = c.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: spec(named)})
	require.NoError(t, err, "a pin is advice")
	tidy(t, s)
}

func TestServiceErrors(t *testing.T) {
	ctx := context.Background()
	r := serve(t)
	c := dial(t, open(t, Config{}))
	encoded := base64.StdEncoding.EncodeToString([]byte("me:secret"))
	r.instead(func(w http.ResponseWriter, req *http.Request) bool {
		if user, password, _ := req.BasicAuth(); user == "me" && password == "secret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	for _, tc := range []struct {
		name string
		auth *runtimeapi.AuthConfig
		code codes.Code
		text string
	}{
		{r.host + "/a:v1", nil, codes.PermissionDenied, "access denied by the registry " + r.host},
		{r.host + "/a:v1", &runtimeapi.AuthConfig{Username: "me", Password: "secret"}, codes.NotFound, "not found in the registry " + r.host},
		{r.host + "/a:v1", &runtimeapi.AuthConfig{Auth: encoded}, codes.NotFound, ""},
		{r.host + "/a:v1", &runtimeapi.AuthConfig{Auth: encoded, ServerAddress: "other.example"}, codes.PermissionDenied, ""},
		{"127.0.0.1:1/a:v1", nil, codes.Unavailable, "RegistryUnavailable: images: pull 127.0.0.1:1/a:v1: cannot reach the registry 127.0.0.1:1"},
		{"UPPER", nil, codes.InvalidArgument, "is no name of an image"},
		{"", nil, codes.InvalidArgument, ""},
	} {
		t.Run(fmt.Sprint(tc.name, tc.code), func(t *testing.T) {
			_, err := c.PullImage(ctx, &runtimeapi.PullImageRequest{Image: spec(tc.name), Auth: tc.auth})
			require.Equal(t, tc.code, status.Code(err), err)
			require.Contains(t, status.Convert(err).Message(), tc.text)
		})
	}
	_, err := c.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec("UPPER")})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
}
