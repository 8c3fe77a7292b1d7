// Package spec turns what CRI says of a container into the OCI configuration that starts it.
//
// # Model
//
// Build is a function: the configs of a container and of its sandbox, the config of the image, the namespaces that the sandbox
// holds and what the host can do go in, a config.json comes out. The one thing that it reads besides is the container's root
// file system (users are looked up in its /etc/passwd) and the host's devices and mounts. What the host cannot do is an
// error that says so, and never a container with less protection than was asked for.
//
// # Rules
//
//   - The command is that of the config, else the image's entrypoint; arguments are those of the config, else the image's
//     when the command is the image's too.
//   - The environment is the image's, with the config's variables in their place or behind; PATH and HOSTNAME have defaults.
//   - The user is the config's, else the image's; groups of the image's /etc/group are added unless the policy is Strict.
//   - Paths are masked and read-only as the security context says, which is the whole list: a context without any (procMount
//     Unmasked) masks nothing. Without a security context the usual paths are.
//   - A config's mount hides the default one of its path.
//   - Mounts of a pod with a user namespace are id-mapped with the mappings that come with them; nothing is chowned.
//
// # Concurrency
//
// All functions may be called by several goroutines. Build holds no state.
package spec
