package kinds

import (
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// podOS checks what fits the pod's operating system.
func (p *podCheck) podOS(spec *field.Path) {
	if p.spec.OS == nil {
		return
	}
	at := spec.Child("os")
	switch p.spec.OS.Name {
	case "":
		p.required(at.Child("name"), "")
	case corev1.Linux:
		p.linux(spec)
	case corev1.Windows:
		p.windows(spec)
	default:
		oneOf(&p.problems, at, p.spec.OS.Name, corev1.Linux, corev1.Windows)
	}
}

func (p *podCheck) linux(spec *field.Path) {
	const unfit = "windows options cannot be set for a linux pod"
	if s := p.spec.SecurityContext; s != nil && s.WindowsOptions != nil {
		p.forbidden(spec.Child("securityContext", "windowsOptions"), unfit)
	}
	containersAt(p.spec, spec, func(c *corev1.Container, at *field.Path) {
		if s := c.SecurityContext; s != nil && s.WindowsOptions != nil {
			p.forbidden(at.Child("securityContext", "windowsOptions"), unfit)
		}
	})
}

const unfitForWindows = "cannot be set for a windows pod"

// The fields of security contexts that Windows does not have, in the order of the messages.
var (
	unfitOfPod = []string{
		"AppArmorProfile", "SELinuxOptions", "SeccompProfile", "FSGroup", "FSGroupChangePolicy", "Sysctls", "RunAsUser", "RunAsGroup",
		"SupplementalGroups", "SupplementalGroupsPolicy", "SELinuxChangePolicy",
	}
	unfitOfContainer = []string{
		"AppArmorProfile", "SELinuxOptions", "SeccompProfile", "Capabilities", "ReadOnlyRootFilesystem", "Privileged", "AllowPrivilegeEscalation",
		"ProcMount", "RunAsUser", "RunAsGroup",
	}
)

func (p *podCheck) windows(spec *field.Path) {
	if s := p.spec.SecurityContext; s != nil {
		p.without(spec.Child("securityContext"), *s, unfitOfPod)
	}
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"hostUsers", p.spec.HostUsers != nil}, {"hostPID", p.spec.HostPID}, {"hostIPC", p.spec.HostIPC},
		{"shareProcessNamespace", p.spec.ShareProcessNamespace != nil},
	} {
		if f.set {
			p.forbidden(spec.Child(f.name), unfitForWindows)
		}
	}
	containersAt(p.spec, spec, func(c *corev1.Container, at *field.Path) {
		if c.SecurityContext != nil {
			p.without(at.Child("securityContext"), *c.SecurityContext, unfitOfContainer)
		}
	})
}

// without forbids fields of a struct, by their names in Go.
func (p *podCheck) without(at *field.Path, of any, names []string) {
	v := reflect.ValueOf(of)
	for _, name := range names {
		if v.FieldByName(name).IsZero() {
			continue
		}
		if rest, ok := strings.CutPrefix(name, "SELinux"); ok {
			name = "seLinux" + rest
		} else if rest, ok := strings.CutPrefix(name, "FS"); ok {
			name = "fs" + rest
		} else {
			name = string(unicode.ToLower(rune(name[0]))) + name[1:]
		}
		p.forbidden(at.Child(name), unfitForWindows)
	}
}

// hostProcesses checks that either all containers of a pod run as processes of a Windows host, or none.
func (p *podCheck) hostProcesses(spec *field.Path) {
	var ofPod *bool
	if s := p.spec.SecurityContext; s != nil && s.WindowsOptions != nil {
		ofPod = s.WindowsOptions.HostProcess
	}
	all, n := 0, 0
	containersAt(p.spec, spec, func(c *corev1.Container, at *field.Path) {
		all++
		is := ofPod
		if s := c.SecurityContext; s != nil && s.WindowsOptions != nil && s.WindowsOptions.HostProcess != nil {
			is = s.WindowsOptions.HostProcess
			if ofPod != nil && *ofPod != *is {
				p.invalid(at.Child("securityContext", "windowsOptions", "hostProcess"), *is,
					fmt.Sprintf("pod hostProcess value must be identical if both are specified, was %v", *ofPod))
			}
		}
		if is != nil && *is {
			n++
		}
	})
	if n == 0 {
		return
	}
	if n != all {
		p.invalid(spec, "", "If pod contains any hostProcess containers then all containers must be HostProcess containers")
	}
	if !p.spec.HostNetwork {
		p.invalid(spec.Child("hostNetwork"), false, "hostNetwork must be true if pod contains any hostProcess containers")
	}
}

const (
	maxCredentialSpec = 64 // KiB
	maxUserDomain     = 256
	maxUserName       = 104
)

var (
	netBIOSName   = regexp.MustCompile(`^[^\\/:\*\?"<>|\.][^\\/:\*\?"<>|]{0,14}$`)
	windowsDomain = regexp.MustCompile(`^[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$`)
)

func (p *podCheck) windowsOptions(w *corev1.WindowsSecurityContextOptions, at *field.Path) {
	if w == nil {
		return
	}
	if w.GMSACredentialSpecName != nil {
		p.each(at.Child("gmsaCredentialSpecName"), w.GMSACredentialSpecName, utilvalidation.IsDNS1123Subdomain(*w.GMSACredentialSpecName))
	}
	if s := w.GMSACredentialSpec; s != nil {
		at := at.Child("gmsaCredentialSpec")
		if *s == "" {
			p.invalid(at, s, "gmsaCredentialSpec cannot be an empty string")
		} else if len(*s) > maxCredentialSpec*1024 {
			p.invalid(at, s, fmt.Sprintf("gmsaCredentialSpec size must be under %d KiB", maxCredentialSpec))
		}
	}
	if w.RunAsUserName != nil {
		for _, m := range windowsUserErrors(*w.RunAsUserName) {
			p.invalid(at.Child("runAsUserName"), w.RunAsUserName, "runAsUserName"+m)
		}
	}
}

// windowsUserErrors says what is wrong with a user's name, which may have a domain in front of it.
func windowsUserErrors(name string) (messages []string) {
	switch {
	case name == "":
		return []string{" cannot be an empty string"}
	case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return []string{" cannot contain control characters"}
	case strings.Count(name, `\`) > 1:
		return []string{" cannot contain more than one backslash"}
	}
	domain, user, found := strings.Cut(name, `\`)
	if !found {
		domain, user = "", name
	}
	add := func(wrong bool, message string) {
		if wrong {
			messages = append(messages, message)
		}
	}
	add(len(domain) >= maxUserDomain, fmt.Sprintf("'s Domain length must be under %d characters", maxUserDomain))
	add(found && !netBIOSName.MatchString(domain) && !windowsDomain.MatchString(domain), "'s Domain doesn't match the NetBios nor the DNS format")
	add(user == "", "'s User cannot be empty")
	add(len(user) > maxUserName, fmt.Sprintf("'s User length must not be longer than %d characters", maxUserName))
	add(user != "" && strings.Trim(user, ". ") == "", "'s User cannot contain only periods or spaces")
	add(strings.ContainsAny(user, `"/\:;|=,+*?<>@[]`), `'s User cannot contain the following characters: "/\:;|=,+*?<>@[]`)
	return messages
}
