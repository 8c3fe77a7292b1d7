package rpc

import (
	"fmt"
	"maps"
	"path"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// RegisterReflection describes the services that are registered with a server to clients that ask. It tells what is in the
// .proto files and nothing else.
func RegisterReflection(g *grpc.Server) error {
	files, err := describeServices(slices.Sorted(maps.Keys(g.GetServiceInfo())))
	if err != nil {
		return fmt.Errorf("describing the services: %w", err)
	}
	o := reflection.ServerOptions{Services: g, DescriptorResolver: files}
	grpc_reflection_v1.RegisterServerReflectionServer(g, reflection.NewServerV1(o))
	grpc_reflection_v1alpha.RegisterServerReflectionServer(g, reflection.NewServer(o))
	return nil
}

// describeServices returns the files of services with all that these import. The files of etcd's API name each other by other
// paths than their own, which no client could follow: they are mended.
func describeServices(services []string) (*protoregistry.Files, error) {
	set := &descriptorpb.FileDescriptorSet{}
	known := map[string]bool{}
	var add func(f protoreflect.FileDescriptor)
	add = func(f protoreflect.FileDescriptor) {
		if known[f.Path()] {
			return
		}
		known[f.Path()] = true
		p := protodesc.ToFileDescriptorProto(f)
		p.Dependency, p.PublicDependency, p.WeakDependency = nil, nil, nil
		for i := range f.Imports().Len() {
			imported := f.Imports().Get(i).FileDescriptor
			if imported.IsPlaceholder() {
				real, err := protoregistry.GlobalFiles.FindFileByPath(path.Base(imported.Path()))
				if err != nil {
					continue // options that are not known here
				}
				imported = real
			}
			add(imported)
			p.Dependency = append(p.Dependency, imported.Path())
		}
		set.File = append(set.File, p)
	}
	for _, s := range services {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(s))
		if err != nil {
			return nil, err
		}
		add(d.ParentFile())
	}
	return protodesc.NewFiles(set)
}
