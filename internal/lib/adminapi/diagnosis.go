package adminapi

// Diagnosis is what GET /cloister/v1/why says of one resource: the chain of what it stands on, each link with what was
// seen of it. The answer is a list, for with no resource named it is about everything that is not healthy.
type Diagnosis struct {
	// Subject is the resource's ID. A node's is CLUSTER-ID/nodes/NAME, a pod's CLUSTER-ID/pods/NAMESPACE/NAME.
	Subject string `json:"subject"`
	Kind    string `json:"kind"`  // cluster, node, pod, endpoint, registry, zone
	State   string `json:"state"` // as its own interface tells it: a provisioning state, an exit code, a pod's reason
	Healthy bool   `json:"healthy"`
	Links   []Link `json:"links"`
	// Cause is the first broken link, from which the later ones may follow.
	Cause *Link `json:"cause,omitempty"`
	// Then are the commands that make the resource try again once the cause is mended.
	Then     []string  `json:"then,omitempty"`
	Warnings []Warning `json:"warnings,omitempty"`
}

// States of a Link.
const (
	LinkFine    = "fine"
	LinkBroken  = "broken"
	LinkUnknown = "unknown" // it could not be looked at, mostly because an earlier one is broken
)

// Link is one thing that a resource stands on.
type Link struct {
	Name    string   `json:"name"` // name, zone, link, record, endpoint, approval, path, registry, identity, role, rule, upstream, …
	Subject string   `json:"subject"`
	State   string   `json:"state"`
	Saw     string   `json:"saw"`
	Mend    []string `json:"mend,omitempty"` // commands of az, in order
}

// Warning is something that works, and does not do what who wrote it may believe.
type Warning struct {
	Code    string   `json:"code"`
	Subject string   `json:"subject"` // resource ID
	Message string   `json:"message"`
	Mend    []string `json:"mend,omitempty"`
}
