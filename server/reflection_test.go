package server_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/keelson-io/keelson/server/servertest"
)

// describer asks a member for the description of its services.
type describer struct {
	t      *testing.T
	stream reflectionpb.ServerReflection_ServerReflectionInfoClient
	set    descriptorpb.FileDescriptorSet // what a file imports is sent once on a stream
}

func (d *describer) ask(r *reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
	require.NoError(d.t, d.stream.Send(r))
	resp, err := d.stream.Recv()
	require.NoError(d.t, err)
	require.Nil(d.t, resp.GetErrorResponse())
	return resp
}

// files are those that describe a symbol, with all that they depend on.
func (d *describer) files(symbol string) *protoregistry.Files {
	resp := d.ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: symbol}})
	for _, raw := range resp.GetFileDescriptorResponse().FileDescriptorProto {
		f := &descriptorpb.FileDescriptorProto{}
		require.NoError(d.t, proto.Unmarshal(raw, f))
		if !slices.ContainsFunc(d.set.File, func(have *descriptorpb.FileDescriptorProto) bool { return have.GetName() == f.GetName() }) {
			d.set.File = append(d.set.File, f)
		}
	}
	files, err := protodesc.NewFiles(&d.set)
	require.NoError(d.t, err)
	return files
}

// TestReflection describes the services to a client that knows none of them, only if that is wanted, and no more than that when
// authentication is on.
func TestReflection(t *testing.T) {
	c := servertest.Start(t, 1, append(servertest.Quick(), "--enable-grpc-reflection")...)
	conn := c.Dial(c.Members[0])
	auth := pb.NewAuthClient(conn)
	for _, step := range []func() error{
		func() error { _, err := auth.RoleAdd(deadline(t), &pb.AuthRoleAddRequest{Name: "root"}); return err },
		func() error {
			_, err := auth.UserAdd(deadline(t), &pb.AuthUserAddRequest{Name: "root", Password: "p"})
			return err
		},
		func() error {
			_, err := auth.UserGrantRole(deadline(t), &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})
			return err
		},
		func() error { _, err := auth.AuthEnable(deadline(t), &pb.AuthEnableRequest{}); return err },
	} {
		require.NoError(t, step())
	}
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(deadline(t))
	require.NoError(t, err)
	d := &describer{t: t, stream: stream}
	var names []string
	for _, s := range d.ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}).GetListServicesResponse().Service {
		names = append(names, s.Name)
	}
	for _, want := range []string{"etcdserverpb.KV", "etcdserverpb.Watch", "etcdserverpb.Lease", "etcdserverpb.Cluster", "etcdserverpb.Maintenance", "etcdserverpb.Auth",
		"v3lockpb.Lock", "v3electionpb.Election", "grpc.health.v1.Health"} {
		require.True(t, slices.Contains(names, want), "%s is not among %v", want, names)
		desc, err := d.files(want).FindDescriptorByName(protoreflect.FullName(want))
		require.NoError(t, err)
		require.NotZero(t, desc.(protoreflect.ServiceDescriptor).Methods().Len(), want)
	}
	_, err = pb.NewKVClient(conn).Range(deadline(t), &pb.RangeRequest{Key: []byte("a")})
	require.ErrorContains(t, err, "user name is empty")

	quiet := servertest.Start(t, 1, servertest.Quick()...)
	require.Equal(t, codes.Unimplemented, status.Code(describe(t, quiet.Dial(quiet.Members[0]))))
}

func describe(t *testing.T, conn *grpc.ClientConn) error {
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(deadline(t))
	if err != nil {
		return err
	}
	_, err = stream.Recv()
	return err
}
