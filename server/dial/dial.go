// Package dial connects to the members of another cluster, or of one's own, as a client does: endpoints with or without a
// scheme, TLS by files, a user's token.
//
// # Concurrency
//
// Functions have no state.
package dial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// TLS is how to connect with TLS.
type TLS struct {
	CertFile, KeyFile  string // the client's certificate
	CAFile             string // the authorities of servers; "": the system's
	InsecureSkipVerify bool
}

// Config reads the files. prefix is that of the flags, for errors: --<prefix>cert and so on.
func (t TLS) Config(prefix string) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: t.InsecureSkipVerify}
	if t.CertFile != "" || t.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("--%scert, --%skey: %w", prefix, prefix, err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("--%scacert: %w", prefix, err)
		}
		if cfg.RootCAs = x509.NewCertPool(); !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--%scacert: there is no certificate in %s", prefix, t.CAFile)
		}
	}
	return cfg, nil
}

// Target returns gRPC's name of an endpoint, and whether to use TLS: as its scheme says, or if there is none, if TLS is
// configured (cfg is not nil).
func Target(ep string, cfg *tls.Config) (target string, creds credentials.TransportCredentials) {
	e := Parse(ep, cfg != nil)
	switch {
	case !e.Secure:
		return e.Target(), insecure.NewCredentials()
	case cfg == nil:
		cfg = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return e.Target(), credentials.NewTLS(cfg)
}

// Denied is the refusal of a user.
type Denied struct{ error }

// Unwrap is the refusal as it came.
func (d Denied) Unwrap() error { return d.error }

// Authenticate gets a token for a user: "" if the cluster has no authentication. An error is Denied if the user is refused.
func Authenticate(ctx context.Context, conn grpc.ClientConnInterface, name, password string) (token string, err error) {
	resp, err := pb.NewAuthClient(conn).Authenticate(ctx, &pb.AuthenticateRequest{Name: name, Password: password})
	switch status.Code(err) {
	case codes.OK:
		return resp.GetToken(), nil
	case codes.FailedPrecondition, codes.Unimplemented: // there are no users
		return "", nil
	case codes.InvalidArgument, codes.PermissionDenied, codes.Unauthenticated:
		return "", Denied{err}
	}
	return "", err
}
