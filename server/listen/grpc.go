package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"net"

	"google.golang.org/grpc/credentials"
)

// Credentials are those of a gRPC server on a Splitter: handshakes are over when it gets a connection. Calls on TLS
// connections have a credentials.TLSInfo as their peer's AuthInfo, others have none.
func Credentials() credentials.TransportCredentials { return handshaken{} }

type handshaken struct{}

// ServerHandshake tells gRPC how a connection is secured.
func (handshaken) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	tc, ok := c.(interface{ ConnectionState() tls.ConnectionState })
	if !ok {
		return c, nil, nil
	}
	return c, credentials.TLSInfo{
		State:          tc.ConnectionState(),
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}, nil
}

// ClientHandshake fails: these are credentials of a server.
func (handshaken) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("listen: not for clients")
}

// Info names the protocol.
func (handshaken) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone returns the same.
func (h handshaken) Clone() credentials.TransportCredentials { return h }

// OverrideServerName does nothing.
func (handshaken) OverrideServerName(string) error { return nil }
