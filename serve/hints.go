package serve

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	durable "github.com/durable-go/durable"
)

// hints remembers what is registered, to print lines to try.
type hints struct {
	durable.Registrar
	types []*durable.ObjectType
}

// RegisterObject implements [durable.Registrar].
func (h *hints) RegisterObject(t *durable.ObjectType) error {
	if err := h.Registrar.RegisterObject(t); err != nil {
		return err
	}
	h.types = append(h.types, t)
	return nil
}

func (h *hints) url(c config, addr net.Addr) string {
	if c.cert != "" {
		return "https://" + addr.String()
	}
	return "http://" + addr.String()
}

// print writes a curl and a grpcurl line for the first methods of each type.
func (h *hints) print(w io.Writer, c config, addr net.Addr) {
	if len(h.types) == 0 || c.cert != "" {
		return // the reader's certificates are not known
	}
	fmt.Fprint(w, "\nTry:\n")
	for _, t := range h.types {
		for i, m := range firsts(t.Methods) {
			fmt.Fprintf(w, "  curl -H 'Content-Type: application/json' -d '%s' %s%s\n", sample(m), h.url(c, addr), m.Procedure)
			if i == 0 {
				fmt.Fprintf(w, "  grpcurl -plaintext -d '%s' %s %s\n", sample(m), addr, strings.TrimPrefix(m.Procedure, "/"))
			}
		}
	}
	fmt.Fprintln(w)
}

// printAdmin says where the admin service is, and writes a curl line for it.
func (h *hints) printAdmin(w io.Writer, c config, a *adminPort) {
	if a.port == nil {
		return
	}
	url, header := h.url(c, a.Addr()), ""
	fmt.Fprintf(w, "The admin service is on %s\n", url)
	if c.cert != "" {
		return
	}
	if a.token {
		header = fmt.Sprintf(`-H "Authorization: Bearer $(cat '%s')" `, strings.ReplaceAll(c.adminTokenFile, "'", `'\''`))
	}
	fmt.Fprintf(w, "  curl %s-H 'Content-Type: application/json' -d '{}' %s/durable.admin.v1.AdminService/ListObjectTypes\n\n", header, url)
}

// firsts returns the first method that may write and the first that only reads,
// of those with one request and one response.
func firsts(methods []durable.Method) []durable.Method {
	var out []durable.Method
	for _, readOnly := range []bool{false, true} {
		for _, m := range methods {
			if !m.ClientStream && !m.ServerStream && m.ReadOnly == readOnly {
				out = append(out, m)
				break
			}
		}
	}
	return out
}

// sample returns a request in JSON that names an object and has something in
// its simple fields.
func sample(m durable.Method) string {
	fields := m.Desc.Input().Fields()
	var parts []string
	for i := range fields.Len() {
		f := fields.Get(i)
		var value string
		switch {
		case f.IsList() || f.IsMap() || f.ContainingOneof() != nil:
			continue
		case f == m.KeyField:
			value = `"a"`
		case f.Kind() == protoreflect.StringKind:
			value = `"` + string(f.Name()) + `"`
		case f.Kind() == protoreflect.BoolKind:
			value = "true"
		case f.Kind() == protoreflect.EnumKind || f.Kind() == protoreflect.MessageKind || f.Kind() == protoreflect.GroupKind || f.Kind() == protoreflect.BytesKind:
			continue
		default:
			value = "1"
		}
		name, _ := json.Marshal(f.JSONName())
		parts = append(parts, string(name)+":"+value)
	}
	return "{" + strings.Join(parts, ",") + "}"
}
