// Package adminapi is what the command line says to a running installation beside ARM: the wire types of
// the administration API, which is spoken on the installation's Unix socket only, below /cloister/v1.
// Who may open that socket (mode 0600, root) is the local administrator.
package adminapi

import "time"

// Status is GET /cloister/v1/status.
type Status struct {
	Version        string    `json:"version"`
	Program        string    `json:"program"` // build ID: two programs of one version may differ
	Instance       string    `json:"instance"`
	DataDir        string    `json:"dataDir"`
	TenantID       string    `json:"tenantId"`
	SubscriptionID string    `json:"subscriptionId"`
	Since          time.Time `json:"since"`
	Listen         string    `json:"listen,omitempty"` // on the loopback interface, for the host's own programs
	Ready          bool      `json:"ready"`
	// Problem is why the start failed, or, with Ready, what it went on without.
	Problem   string          `json:"problem,omitempty"`
	Processes []ProcessStatus `json:"processes"`
	Clusters  []ClusterStatus `json:"clusters"`
	Public    []PublicCount   `json:"publicPackets"` // packets from VNets that arrived in `public`
}

// ProcessStatus is one process that Cloister keeps running.
type ProcessStatus struct {
	Name     string `json:"name"`
	State    string `json:"state"` // running, stopped, unknown
	PID      uint32 `json:"pid,omitempty"`
	Restarts int    `json:"restarts"`
}

// ClusterStatus is one cluster as it is.
type ClusterStatus struct {
	ID                string       `json:"id"`
	Name              string       `json:"name"`
	ResourceGroup     string       `json:"resourceGroup"`
	ProvisioningState string       `json:"provisioningState"`
	KubernetesVersion string       `json:"kubernetesVersion"`
	OutboundType      string       `json:"outboundType"`
	ArtifactSource    string       `json:"artifactSource"`
	Nodes             []NodeStatus `json:"nodes"`
	Warnings          []Warning    `json:"warnings,omitempty"`
}

// NodeStatus is one node.
type NodeStatus struct {
	Name     string `json:"name"`
	Address  string `json:"address"`
	Pool     string `json:"pool"`
	State    string `json:"state"`
	Registry string `json:"registry,omitempty"` // what it was provisioned with; "" is mcr.microsoft.com itself
	// ReimageDue is why a reimage would make another node of it; "" when it would not.
	ReimageDue string `json:"reimageDue,omitempty"`
}

// PublicCount counts packets to one public address.
type PublicCount struct {
	Destination string `json:"destination"`
	Packets     uint64 `json:"packets"`
}

// Token is POST /cloister/v1/token: a bearer token of the local administrator.
type Token struct {
	AccessToken    string `json:"accessToken"`
	ExpiresIn      int    `json:"expiresIn"` // seconds
	SubscriptionID string `json:"subscription"`
	TenantID       string `json:"tenant"`
}

// SessionRequest is POST /cloister/v1/sessions. At most one of Cluster, Network and Interface is set; none is a workstation.
type SessionRequest struct {
	Cluster string `json:"cluster,omitempty"` // resource ID
	Network string `json:"network,omitempty"` // resource ID of a virtual network
	// Interface is the resource ID of a network interface that nothing is behind.
	Interface string `json:"interface,omitempty"`
	// Identities are the resource IDs of the user-assigned identities that a jump box has, as a virtual machine would.
	Identities []string `json:"identities,omitempty"`
	Login      bool     `json:"login,omitempty"` // Session.Login is wanted
}

// Session is the first line of the answer to a SessionRequest. The session lasts as long as the
// connection: when it closes, however it closes, what was made for the session is removed.
type Session struct {
	NetNS       string            `json:"netns"`
	Nameservers []string          `json:"nameservers"` // addresses, in the order in which they are asked; at least one
	Address     string            `json:"address"`
	Kubeconfig  string            `json:"kubeconfig,omitempty"` // content
	CABundle    string            `json:"caBundle"`             // PEM of the installation's authority
	Path        []string          `json:"path"`                 // directories of tools to find first
	Env         map[string]string `json:"env,omitempty"`
	Login       *Login            `json:"login,omitempty"`
}

// Credentials is GET /cloister/v1/credentials: what the host's own programs need to be the local administrator.
type Credentials struct {
	Login    Login  `json:"login"`
	CABundle string `json:"caBundle"`
}

// Login is who the local administrator is to a client that logs in by itself.
type Login struct {
	TenantID       string `json:"tenantId"`
	SubscriptionID string `json:"subscriptionId"`
	ClientID       string `json:"clientId"` // a service principal's
	ClientSecret   string `json:"clientSecret"`
	Username       string `json:"username"` // the same person as a user
	Password       string `json:"password"`
}

// Timeline is GET /cloister/v1/timeline?resource=ID: how the last operation on a resource spent its time.
type Timeline struct {
	Operation string         `json:"operation"`
	Status    string         `json:"status"`
	Start     time.Time      `json:"start"`
	End       *time.Time     `json:"end,omitempty"`
	Steps     []TimelineStep `json:"steps"`
}

// TimelineStep is one thing done on the way.
type TimelineStep struct {
	Name  string     `json:"name"`
	Start time.Time  `json:"start"`
	End   *time.Time `json:"end,omitempty"`
}
