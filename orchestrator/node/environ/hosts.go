package environ

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

const (
	hostsHeader     = "# Kubernetes-managed hosts file.\n"
	hostsHeaderHost = "# Kubernetes-managed hosts file (host network).\n"
	maxHostname     = 63 // bytes; the kernel takes 64 with the zero at the end
	maxFQDN         = 64
)

// localhosts begin a pod's hosts file.
const localhosts = "127.0.0.1\tlocalhost\n" +
	"::1\tlocalhost ip6-localhost ip6-loopback\n" +
	"fe00::0\tip6-localnet\n" +
	"fe00::0\tip6-mcastprefix\n" +
	"fe00::1\tip6-allnodes\n" +
	"fe00::2\tip6-allrouters\n"

// Hosts writes the file that a pod's containers see as /etc/hosts, and returns its path. A file that is right already is
// left alone, so that containers that run keep it.
func (e *Environ) Hosts(pod *corev1.Pod, ips []string) (string, error) {
	text, err := e.hostsText(pod, ips)
	if err != nil {
		return "", err
	}
	dir := e.podDir(pod.UID)
	path := filepath.Join(dir, "etc-hosts")
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, text) {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", fmt.Errorf("environ: the hosts file: %w", err)
	}
	if err := replace(path, text); err != nil {
		return "", fmt.Errorf("environ: the hosts file: %w", err)
	}
	return path, nil
}

func (e *Environ) hostsText(pod *corev1.Pod, ips []string) ([]byte, error) {
	var b bytes.Buffer
	if pod.Spec.HostNetwork {
		node, err := os.ReadFile(e.cfg.HostsFile)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("environ: the node's hosts file: %w", err)
		}
		b.WriteString(hostsHeaderHost)
		b.Write(node)
	} else {
		host, domain, err := e.Hostname(pod)
		if err != nil {
			return nil, err
		}
		names := host
		if domain != "" {
			names = host + "." + domain + "\t" + host
		}
		b.WriteString(hostsHeader + localhosts)
		for _, ip := range ips {
			fmt.Fprintf(&b, "%s\t%s\n", ip, names)
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, a := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
		}
	}
	return b.Bytes(), nil
}

// replace puts a file in place at once.
func replace(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// Hostname is a pod's name and, if it has a subdomain, the domain that the name lies in.
func (e *Environ) Hostname(pod *corev1.Pod) (host, domain string, err error) {
	if o := pod.Spec.HostnameOverride; o != nil {
		if msgs := validation.IsDNS1123Subdomain(*o); len(msgs) > 0 {
			return "", "", fmt.Errorf("pod HostnameOverride %q is not a valid DNS subdomain: %s", *o, strings.Join(msgs, ";"))
		}
		return truncate(*o), "", nil
	}
	host = pod.Name
	if h := pod.Spec.Hostname; h != "" {
		if msgs := validation.IsDNS1123Label(h); len(msgs) > 0 {
			return "", "", fmt.Errorf("pod Hostname %q is not a valid DNS label: %s", h, strings.Join(msgs, ";"))
		}
		host = h
	}
	if s := pod.Spec.Subdomain; s != "" {
		if msgs := validation.IsDNS1123Label(s); len(msgs) > 0 {
			return "", "", fmt.Errorf("pod Subdomain %q is not a valid DNS label: %s", s, strings.Join(msgs, ";"))
		}
		domain = fmt.Sprintf("%s.%s.svc.%s", s, pod.Namespace, e.cfg.ClusterDomain)
	}
	return truncate(host), domain, nil
}

// truncate shortens a name to what the kernel takes. A name does not end in a dash or a dot.
func truncate(name string) string {
	if len(name) <= maxHostname {
		return name
	}
	return strings.TrimRight(name[:maxHostname], "-.")
}

// SandboxHostname is the name that the kernel is told: with the domain if the pod wants that, and "" for a pod in the
// node's network, which has the node's.
func (e *Environ) SandboxHostname(pod *corev1.Pod) (string, error) {
	if pod.Spec.HostNetwork && pod.Spec.HostnameOverride == nil {
		return "", nil
	}
	host, domain, err := e.Hostname(pod)
	if err != nil || domain == "" || !isTrue(pod.Spec.SetHostnameAsFQDN) {
		return host, err
	}
	fqdn := host + "." + domain
	if len(fqdn) > maxFQDN {
		return "", fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long (%d characters is the max, %d characters requested)", fqdn, maxFQDN, len(fqdn))
	}
	return fqdn, nil
}
