package kinds

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/node/util/sysctl"
)

const maxProfileName = 4095 // what a path of Linux may be, less its end

// appArmor checks a profile, which may be absent.
func (p *problems) appArmor(at *field.Path, profile *corev1.AppArmorProfile) {
	if profile == nil {
		return
	}
	nameAt, name := at.Child("localhostProfile"), profile.LocalhostProfile
	const needsName = "must be set when AppArmor type is Localhost"
	switch profile.Type {
	case corev1.AppArmorProfileTypeLocalhost:
		if name == nil {
			p.required(nameAt, needsName)
			return
		}
		if strings.TrimSpace(*name) != *name {
			p.invalid(nameAt, *name, "must not be padded with whitespace")
		} else if *name == "" {
			p.required(nameAt, needsName)
		}
		if len(*name) > maxProfileName {
			p.add(field.TooLong(nameAt, "", maxProfileName))
		}
	case corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined:
		if name != nil {
			p.invalid(nameAt, name, "can only be set when AppArmor type is Localhost")
		}
	case "":
		p.required(at.Child("type"), "type is required when appArmorProfile is set")
	default:
		oneOf(p, at.Child("type"), profile.Type,
			corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
	}
}

// validProfile says that a profile is well-formed.
func validProfile(profile *corev1.AppArmorProfile) bool {
	var p problems
	p.appArmor(nil, profile)
	return len(p.list) == 0
}

// seccomp checks a profile, which may be absent.
func (p *problems) seccomp(at *field.Path, profile *corev1.SeccompProfile) {
	if profile == nil {
		return
	}
	if profile.Type == "" {
		p.required(at.Child("type"), "type is required when seccompProfile is set")
	} else {
		oneOf(p, at.Child("type"), profile.Type,
			corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
	}
	name := at.Child("localhostProfile")
	switch local := profile.Type == corev1.SeccompProfileTypeLocalhost; {
	case local && profile.LocalhostProfile == nil:
		p.required(name, "must be set when seccomp type is Localhost")
	case local:
		p.descending(name, *profile.LocalhostProfile)
	case profile.LocalhostProfile != nil:
		p.invalid(name, profile, "can only be set when seccomp type is Localhost")
	}
}

func (p *problems) userID(at *field.Path, id *int64) {
	if id != nil {
		p.each(at, *id, utilvalidation.IsValidUserID(*id))
	}
}

func (p *problems) groupID(at *field.Path, id *int64) {
	if id != nil {
		p.each(at, *id, utilvalidation.IsValidGroupID(*id))
	}
}

// containerSecurity checks the security context of a container.
func (p *podCheck) containerSecurity(s *corev1.SecurityContext, at *field.Path) {
	if s == nil {
		return
	}
	p.userID(at.Child("runAsUser"), s.RunAsUser)
	p.groupID(at.Child("runAsGroup"), s.RunAsGroup)
	if m := s.ProcMount; m != nil {
		at := at.Child("procMount")
		oneOf(&p.problems, at, *m, corev1.DefaultProcMount, corev1.UnmaskedProcMount)
		if p.hostUsers() && *m == corev1.UnmaskedProcMount {
			p.invalid(at, m, "`hostUsers` must be false to use `Unmasked`")
		}
	}
	p.seccomp(at.Child("seccompProfile"), s.SeccompProfile)
	if s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation {
		if s.Privileged != nil && *s.Privileged {
			p.invalid(at, s, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true")
		}
		if s.Capabilities != nil {
			for _, c := range s.Capabilities.Add {
				if c == "CAP_SYS_ADMIN" {
					p.invalid(at, s, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN")
				}
			}
		}
	}
	p.windowsOptions(s.WindowsOptions, at.Child("windowsOptions"))
	p.appArmor(at.Child("appArmorProfile"), s.AppArmorProfile)
}

// podSecurity checks the security context of a pod.
func (p *podCheck) podSecurity(at *field.Path) {
	s := p.spec.SecurityContext
	if s == nil {
		return
	}
	p.groupID(at.Child("fsGroup"), s.FSGroup)
	p.userID(at.Child("runAsUser"), s.RunAsUser)
	p.groupID(at.Child("runAsGroup"), s.RunAsGroup)
	for i := range s.SupplementalGroups {
		p.groupID(at.Child("supplementalGroups").Index(i), &s.SupplementalGroups[i])
	}
	p.sysctls(at.Child("sysctls"))
	optionalOneOf(&p.problems, at.Child("fsGroupChangePolicy"), s.FSGroupChangePolicy, corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)
	p.seccomp(at.Child("seccompProfile"), s.SeccompProfile)
	p.windowsOptions(s.WindowsOptions, at.Child("windowsOptions"))
	p.appArmor(at.Child("appArmorProfile"), s.AppArmorProfile)
	optionalOneOf(&p.problems, at.Child("supplementalGroupsPolicy"), s.SupplementalGroupsPolicy,
		corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)
	optionalOneOf(&p.problems, at.Child("seLinuxChangePolicy"), s.SELinuxChangePolicy,
		corev1.SELinuxChangePolicyMountOption, corev1.SELinuxChangePolicyRecursive)
}

// optionalOneOf is oneOf for a value that may be absent.
func optionalOneOf[T ~string](p *problems, at *field.Path, value *T, allowed ...T) {
	if value != nil {
		oneOf(p, at, *value, allowed...)
	}
}

const maxSysctl = 253

var sysctlName = regexp.MustCompile(`^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`)

func (p *podCheck) sysctls(at *field.Path) {
	seen := map[string]bool{}
	for i, s := range p.spec.SecurityContext.Sysctls {
		at := at.Index(i).Child("name")
		switch {
		case s.Name == "":
			p.required(at, "")
		case len(s.Name) > maxSysctl || !sysctlName.MatchString(s.Name):
			p.invalid(at, s.Name, fmt.Sprintf("must have at most %d characters and match regex %s", maxSysctl, sysctlName))
		case seen[s.Name]:
			p.duplicate(at, s.Name)
		}
		seen[s.Name] = true
		switch space, _, _ := sysctl.GetNamespace(s.Name); {
		case p.spec.HostNetwork && space == sysctl.NetNamespace:
			p.invalid(at, s.Name, "may not be specified when 'hostNetwork' is true")
		case p.spec.HostIPC && space == sysctl.IPCNamespace:
			p.invalid(at, s.Name, "may not be specified when 'hostIPC' is true")
		}
	}
}
