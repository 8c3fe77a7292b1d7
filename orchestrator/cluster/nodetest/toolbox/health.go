//go:build linux

package main

import (
	"context"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// grpc serves the health service, whose answer is that of /healthz.
func (s *server) grpc(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	g := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(g, health{server: s})
	return g.Serve(l)
}

type health struct {
	grpc_health_v1.UnimplementedHealthServer
	server *server
}

// Check implements the service.
func (h health) Check(context.Context, *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	h.server.hit("grpc")
	status := grpc_health_v1.HealthCheckResponse_SERVING
	if h.server.failing.Load() {
		status = grpc_health_v1.HealthCheckResponse_NOT_SERVING
	}
	return &grpc_health_v1.HealthCheckResponse{Status: status}, nil
}
