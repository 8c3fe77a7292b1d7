package cluster

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"gopkg.in/natefinch/lumberjack.v2"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"

	"github.com/keelson-io/keelson/orchestrator/apiserver/allocation"
	"github.com/keelson-io/keelson/orchestrator/apiserver/audit"
	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

// Settings are what kube-apiserver has flags of the same names for. What is empty is not used, or has its default.
type Settings struct {
	Audit Audit
	// EncryptionProviderConfig is a file with an EncryptionConfiguration.
	EncryptionProviderConfig string
	// TokenAuthFile has a line for each fixed bearer token: token,user,uid,"group1,group2".
	TokenAuthFile string
	// ServiceAccountIssuer is the URL that service account tokens are made by.
	ServiceAccountIssuer string
	// ServiceClusterIPRange is one range in CIDR form, or one of each family with a comma between.
	ServiceClusterIPRange string
	// ServiceNodePortRange is as "30000-32767".
	ServiceNodePortRange string
	// TLSCertFile and TLSPrivateKeyFile take the place of the certificate that the cluster's authority signs.
	TLSCertFile, TLSPrivateKeyFile string
	// ClientCAFile has authorities of clients, beside the cluster's own.
	ClientCAFile string
	// MetricResolution is the time between two measurements of what nodes and pods use; 0: 15 s.
	MetricResolution time.Duration
}

// Audit says what the audit log has in it and where it is. Both files are set, or none.
type Audit struct {
	PolicyFile string
	// LogPath is a file, or "-" for the standard output.
	LogPath string
	// MaxSize is when a file is rotated, in megabytes; MaxAge (days) and MaxBackups are which old files are kept, 0 for all.
	MaxSize, MaxAge, MaxBackups int
}

// settings is what Settings say, read.
type settings struct {
	auditPolicy  *audit.Policy
	auditLog     io.WriteCloser
	transformers func(schema.GroupResource) objectstore.Transformer
	tokens       map[string]request.User
	issuer       string
	ranges       []netip.Prefix
	ports        allocation.Ports
	serving      *tls.Certificate // nil: the cluster's authority signs one
	servingPEM   []byte
	clientCAs    []byte // PEM
}

// Defaults, as they are in most clusters.
const (
	defaultIssuer       = "https://kubernetes.default.svc.cluster.local"
	defaultServiceRange = "10.96.0.0/16"
	defaultNodePorts    = "30000-32767"
)

// read reads all files. An error names the flag and the file.
func (o *Settings) read() (*settings, error) {
	s := &settings{issuer: cmp.Or(o.ServiceAccountIssuer, defaultIssuer)}
	for _, part := range []struct {
		flag string
		read func() error
	}{
		{"audit-policy-file", func() error { return s.readAuditPolicy(&o.Audit) }},
		{"encryption-provider-config", func() (err error) { return s.readEncryption(o.EncryptionProviderConfig) }},
		{"token-auth-file", func() (err error) { return s.readTokens(o.TokenAuthFile) }},
		{"service-account-issuer", func() error { return checkIssuer(s.issuer) }},
		{"service-cluster-ip-range", func() error { return s.readRanges(cmp.Or(o.ServiceClusterIPRange, defaultServiceRange)) }},
		{"service-node-port-range", func() error { return s.readPorts(cmp.Or(o.ServiceNodePortRange, defaultNodePorts)) }},
		{"tls-cert-file", func() error { return s.readServing(o.TLSCertFile, o.TLSPrivateKeyFile) }},
		{"client-ca-file", func() error { return s.readClientCAs(o.ClientCAFile) }},
		{"metric-resolution", func() error { return checkResolution(o.MetricResolution) }},
		{"audit-log-path", func() error { return s.openAuditLog(&o.Audit) }}, // the last, for it is to be closed
	} {
		if err := part.read(); err != nil {
			return nil, fmt.Errorf("cluster: --%s: %w", part.flag, err)
		}
	}
	return s, nil
}

func (s *settings) close() error {
	if s == nil || s.auditLog == nil {
		return nil
	}
	return s.auditLog.Close()
}

func (s *settings) readAuditPolicy(a *Audit) (err error) {
	switch {
	case a.PolicyFile == "":
		return nil
	case a.LogPath == "":
		return errors.New("there is no --audit-log-path to write to")
	}
	text, err := os.ReadFile(a.PolicyFile)
	if err != nil {
		return err
	}
	if s.auditPolicy, err = audit.LoadPolicy(text); err != nil {
		return fmt.Errorf("%s: %w", a.PolicyFile, err)
	}
	return nil
}

func (s *settings) openAuditLog(a *Audit) error {
	switch {
	case a.LogPath == "":
		return nil
	case a.PolicyFile == "":
		return errors.New("there is no --audit-policy-file that says what to write")
	case a.LogPath == "-":
		s.auditLog = unclosed{os.Stdout}
		return nil
	}
	f, err := os.OpenFile(a.LogPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600) // to know now whether it can be written
	if err != nil {
		return err
	}
	if a.MaxSize <= 0 {
		s.auditLog = f
		return nil
	}
	s.auditLog = &lumberjack.Logger{Filename: a.LogPath, MaxSize: a.MaxSize, MaxAge: a.MaxAge, MaxBackups: a.MaxBackups}
	return f.Close()
}

// unclosed is a writer that stays open.
type unclosed struct{ io.Writer }

func (unclosed) Close() error { return nil }

func (s *settings) readEncryption(file string) error {
	if file == "" {
		return nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if s.transformers, err = encryption(text); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// minTokenFields are the token, the name and the UID; after them may be groups.
const minTokenFields = 3

func (s *settings) readTokens(file string) error {
	if file == "" {
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it was only read
	r := csv.NewReader(f)
	r.FieldsPerRecord, r.Comment, r.TrimLeadingSpace = -1, '#', true
	s.tokens = map[string]request.User{}
	for {
		fields, err := r.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		line, _ := r.FieldPos(0)
		switch {
		case len(fields) < minTokenFields:
			return fmt.Errorf("%s: line %d has %d columns: a token, a user's name and a user's UID are needed", file, line, len(fields))
		case fields[0] == "" || fields[1] == "":
			return fmt.Errorf("%s: line %d has no token, or no user's name", file, line)
		}
		u := request.User{Name: fields[1], UID: fields[2]}
		if len(fields) > minTokenFields {
			for g := range strings.SplitSeq(fields[minTokenFields], ",") {
				if g = strings.TrimSpace(g); g != "" {
					u.Groups = append(u.Groups, g)
				}
			}
		}
		s.tokens[fields[0]] = u
	}
}

func checkIssuer(issuer string) error {
	u, err := url.Parse(issuer)
	if err != nil {
		return err
	}
	if strings.Contains(issuer, ":") && u.Scheme == "" || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("%q is no URL without a query and a fragment", issuer)
	}
	return nil
}

// maxServiceBits is how many bits of a service's address may differ in a range.
const maxServiceBits = 20

func (s *settings) readRanges(text string) error {
	for part := range strings.SplitSeq(text, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(part))
		if err != nil {
			return err
		}
		p = p.Masked()
		switch free := p.Addr().BitLen() - p.Bits(); {
		case free > maxServiceBits:
			return fmt.Errorf("%s is too large: for %d-bit addresses, the mask must be >= %d", p, p.Addr().BitLen(), p.Addr().BitLen()-maxServiceBits)
		case free < 3:
			return fmt.Errorf("%s is too small: it must have 8 addresses", p)
		}
		s.ranges = append(s.ranges, p)
	}
	switch {
	case len(s.ranges) > 2:
		return fmt.Errorf("%q has more than two ranges", text)
	case len(s.ranges) == 2 && s.ranges[0].Addr().Is4() == s.ranges[1].Addr().Is4():
		return fmt.Errorf("the two ranges of %q are of the same family", text)
	}
	return nil
}

func (s *settings) readPorts(text string) error {
	r, err := utilnet.ParsePortRange(text)
	if err != nil {
		return err
	}
	if r.Base < 1 || r.Size < 1 || r.Base+r.Size-1 > 65535 {
		return fmt.Errorf("%q is no range of ports", text)
	}
	s.ports = allocation.Ports{First: int32(r.Base), Last: int32(r.Base + r.Size - 1)}
	return nil
}

func (s *settings) readServing(certFile, keyFile string) error {
	if certFile == "" && keyFile == "" {
		return nil
	}
	if certFile == "" || keyFile == "" {
		return errors.New("it goes with --tls-private-key-file: both are needed")
	}
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return fmt.Errorf("%s, %s: %w", certFile, keyFile, err)
	}
	s.serving = &cert
	s.servingPEM, err = os.ReadFile(certFile)
	return err
}

// leastResolution is how often nodes are asked at most.
const leastResolution = time.Second

func checkResolution(d time.Duration) error {
	if d != 0 && d < leastResolution {
		return fmt.Errorf("%s is less than %s", d, leastResolution)
	}
	return nil
}

func (s *settings) readClientCAs(file string) (err error) {
	if file == "" {
		return nil
	}
	if s.clientCAs, err = os.ReadFile(file); err != nil {
		return err
	}
	if !x509.NewCertPool().AppendCertsFromPEM(s.clientCAs) {
		return fmt.Errorf("%s: no certificate in PEM", file)
	}
	return nil
}
