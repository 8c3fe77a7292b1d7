//go:build linux

package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/orchestrator/node/runtime/spec"
)

// shmSize is that of a sandbox's /dev/shm, in bytes.
const shmSize = 64 << 20

// files makes a sandbox's folder: hostname, resolv.conf, and the /dev/shm that its containers share. Its hosts file comes
// when its addresses are known.
func (p *sandboxes) files(s *sandbox) error {
	dir, config := p.m.sandboxDir(s.id), s.rec.Config.v
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	name, err := hostname(s.record())
	if err != nil {
		return err
	}
	if err := p.file(s, "hostname", name+"\n"); err != nil {
		return err
	}
	resolv := resolvConf(config.DnsConfig)
	if config.DnsConfig == nil {
		data, err := os.ReadFile("/etc/resolv.conf")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		resolv = string(data)
	}
	if err := p.file(s, "resolv.conf", resolv); err != nil {
		return err
	}
	if options(config).GetIpc() == runtimeapi.NamespaceMode_NODE {
		return nil
	}
	shm := filepath.Join(dir, "shm")
	if err := os.Mkdir(shm, 0o700); err != nil {
		return err
	}
	data := fmt.Sprintf("mode=1777,size=%d", shmSize)
	if uid, gid, ok := rootOf(config); ok {
		data += fmt.Sprintf(",uid=%d,gid=%d", uid, gid)
	}
	if err := unix.Mount("shm", shm, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, data); err != nil {
		return fmt.Errorf("/dev/shm: %w", err)
	}
	return nil
}

// hosts writes a sandbox's hosts file: the host's for those that share its network.
func (p *sandboxes) hosts(s *sandbox) error {
	rec := s.record()
	if rec.NetNS == "" {
		data, err := os.ReadFile("/etc/hosts")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return p.file(s, "hosts", string(data))
	}
	text := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	for _, a := range rec.Addresses {
		text += a.String() + "\t" + rec.Config.v.Hostname + "\n"
	}
	return p.file(s, "hosts", text)
}

// file writes one of a sandbox's files, for the root of its user namespace.
func (p *sandboxes) file(s *sandbox, name, text string) error {
	path := filepath.Join(p.m.sandboxDir(s.id), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return err
	}
	if uid, gid, ok := rootOf(s.rec.Config.v); ok {
		return os.Chown(path, uid, gid)
	}
	return nil
}

// rootOf is what user and group 0 of a sandbox's user namespace are on the host; ok is false if it has none.
func rootOf(config *runtimeapi.PodSandboxConfig) (uid, gid int, ok bool) {
	uids, gids := mappings(config)
	find := func(in []specs.LinuxIDMapping) int {
		for _, m := range in {
			if m.ContainerID == 0 {
				return int(m.HostID)
			}
		}
		return 0
	}
	return find(uids), find(gids), uids != nil
}

// hostname of a sandbox: that of its config, or the host's.
func hostname(rec sandboxRecord) (string, error) {
	if rec.NetNS != "" {
		return rec.Config.v.Hostname, nil
	}
	return os.Hostname()
}

// resolvConf writes a resolv.conf.
func resolvConf(c *runtimeapi.DNSConfig) (text string) {
	if len(c.GetSearches()) > 0 {
		text += "search " + strings.Join(c.Searches, " ") + "\n"
	}
	for _, server := range c.GetServers() {
		text += "nameserver " + server + "\n"
	}
	if len(c.GetOptions()) > 0 {
		text += "options " + strings.Join(c.Options, " ") + "\n"
	}
	return text
}

// sandboxFiles are those that containers mount.
func (m *machine) sandboxFiles(s *sandbox) (spec.Files, error) {
	rec, dir := s.record(), m.sandboxDir(s.id)
	name, err := hostname(rec)
	f := spec.Files{
		Name: name, Hosts: filepath.Join(dir, "hosts"), Hostname: filepath.Join(dir, "hostname"),
		ResolvConf: filepath.Join(dir, "resolv.conf"), Shm: filepath.Join(dir, "shm"),
	}
	if options(rec.Config.v).GetIpc() == runtimeapi.NamespaceMode_NODE {
		f.Shm = "/dev/shm"
	}
	return f, err
}

// removeFiles removes a sandbox's folder and what is left of its namespaces and cgroups.
func (p *sandboxes) removeFiles(s *sandbox, rec sandboxRecord) error {
	if err := unpin(p.m.netns(s.id)); err != nil {
		return fmt.Errorf("runtime: sandbox %s: %w", s.id, err)
	}
	if err := clearDir(p.m.sandboxDir(s.id)); err != nil {
		return fmt.Errorf("runtime: sandbox %s: %w", s.id, err)
	}
	if rec.OwnCgroup {
		return p.m.removeCgroup(rec.Cgroup)
	}
	return nil
}

// unpin removes a file on which a namespace may be mounted.
func unpin(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("namespace %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// clearDir removes a folder in which file systems may be mounted: they are unmounted first, and never emptied.
func clearDir(dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return err
	}
	for i := len(infos) - 1; i >= 0; i-- { // what was mounted last comes last
		if err := unix.Unmount(infos[i].Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmounting %s: %w", infos[i].Mountpoint, err)
		}
	}
	return os.RemoveAll(dir)
}
