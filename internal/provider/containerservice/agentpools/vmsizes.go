package agentpools

// VMSize is what a size gives a node: it becomes the node's cgroup limits and its reported capacity.
type VMSize struct {
	CPUs      int
	MemoryMiB int
}

// DefaultVMSize is AKS's documented default until May 2025, when it became dynamic.
const DefaultVMSize = "Standard_DS2_v2"

// vmSizes are the sizes that Cloister offers, with Azure's published vCPUs and memory.
var vmSizes = map[string]VMSize{
	"Standard_DS2_v2":  {2, 7 << 10},
	"Standard_DS3_v2":  {4, 14 << 10},
	"Standard_DS4_v2":  {8, 28 << 10},
	"Standard_D2_v3":   {2, 8 << 10},
	"Standard_D4_v3":   {4, 16 << 10},
	"Standard_D2s_v3":  {2, 8 << 10},
	"Standard_D4s_v3":  {4, 16 << 10},
	"Standard_D8s_v3":  {8, 32 << 10},
	"Standard_D2s_v4":  {2, 8 << 10},
	"Standard_D4s_v4":  {4, 16 << 10},
	"Standard_D2s_v5":  {2, 8 << 10},
	"Standard_D4s_v5":  {4, 16 << 10},
	"Standard_D8s_v5":  {8, 32 << 10},
	"Standard_D2as_v5": {2, 8 << 10},
	"Standard_D4as_v5": {4, 16 << 10},
	"Standard_D2ds_v5": {2, 8 << 10},
	"Standard_D4ds_v5": {4, 16 << 10},
	"Standard_E2s_v5":  {2, 16 << 10},
	"Standard_E4s_v5":  {4, 32 << 10},
	"Standard_F2s_v2":  {2, 4 << 10},
	"Standard_F4s_v2":  {4, 8 << 10},
}
