package render

import "github.com/durable-go/durable/protoc-gen-durable/internal/model"

// An event is one of the handlers of a hibernatable method.
type event struct {
	handler, doc string
	params       []string // names and types in turn
}

// events returns the handlers of a hibernatable method.
func (p *printer) events(o *model.Object, m *model.Method) []event {
	c := m.Connection
	params := func(more ...string) []string {
		return append([]string{p.ctx, p.context, p.tx, o.Tx(), p.conn, c.Type()}, more...)
	}
	req := []string{p.req, "*" + p.qualify(m.Request)}
	opened := event{
		c.OpenHandler(), c.OpenHandler() + " runs when a client opens a connection of " + m.Name + ". An error refuses it.",
		params(),
	}
	if m.Comment != "" {
		opened.doc = m.Comment + "\n\n" + opened.doc
	}
	closed := event{
		c.CloseHandler(), c.CloseHandler() + " runs when a connection of " + m.Name + " has ended. " +
			p.cause + " is a *[" + p.durable("CloseError") + "].",
		params(p.cause, "error"),
	}
	if m.Shape == model.ServerStream {
		opened.params = params(req...)
		return []event{opened, closed}
	}
	return []event{opened, {
		c.MessageHandler(), c.MessageHandler() + " runs for each message of a connection of " + m.Name + ". An error does not close it.",
		params(req...),
	}, closed}
}

// connectionHandler prints the methods of the handler that serve a hibernatable
// method.
func (p *printer) connectionHandler(o *model.Object, m *model.Method) {
	for _, e := range p.events(o, m) {
		p.lines(e.doc, m.Deprecated)
		p.P(e.handler, "(", parameters(e.params, true), ") error")
	}
}

func (p *printer) unimplementedConnection(o *model.Object, m *model.Method) {
	for _, e := range p.events(o, m) {
		p.comment(e.handler+" implements ["+o.Handler()+"].", "", m.Deprecated)
		p.P("func (", o.Unimplemented(), ") ", e.handler, "(", parameters(e.params, false), ") error {")
		p.P("return ", p.durable("Unimplemented"), "(", m.ProcedureConst(), ")")
		p.P("}")
	}
}

// connection prints the types of the connections of a hibernatable method, which
// package durable knows by their fields, and the methods of the handles that find
// them.
func (p *printer) connection(o *model.Object, m *model.Method) {
	c := m.Connection
	attachment := ""
	if c.Attachment != nil {
		attachment = "[" + p.qualify(*c.Attachment) + "]"
	}
	req, res := p.qualify(m.Request), p.qualify(m.Response)

	p.comment(c.Type()+" is one connection of "+m.Name+", in a turn that may write.", "", m.Deprecated)
	p.P("type ", c.Type(), " struct {")
	p.P(p.durable("Connection"), "[", res, "]")
	if attachment != "" {
		p.P(p.durable("Attached"), attachment)
	}
	p.P("}")
	p.comment(c.ViewType()+" is one connection of "+m.Name+", in a turn that only reads.", "", m.Deprecated)
	p.P("type ", c.ViewType(), " struct {")
	p.P(p.durable("ConnectionView"))
	if attachment != "" {
		p.P(p.durable("AttachedView"), attachment)
	}
	p.P("}")
	p.comment(c.SetType()+" are connections of "+m.Name+", in a turn that may write.", "", m.Deprecated)
	p.P("type ", c.SetType(), " = ", p.durable("Conns"), "[", c.Type(), ", ", res, "]")
	p.comment(c.ViewSetType()+" are connections of "+m.Name+", in a turn that only reads.", "", m.Deprecated)
	p.P("type ", c.ViewSetType(), " = ", p.durable("ConnViews"), "[", c.ViewType(), "]")

	p.connections(m, p.tx, o.Tx(), c.SetType(), c.Type(), "ConnsOf", "ConnsPort")
	p.connections(m, p.view, o.View(), c.ViewSetType(), c.ViewType(), "ConnViewsOf", "ConnsReader")
	if method := c.AutoResponse(); method != "" {
		p.comment(method+" returns the message that "+m.Name+" answers without a turn, and its answer.", "", m.Deprecated)
		p.P("func (", p.tx, " ", o.Tx(), ") ", method, "() ", p.durable("AutoResponse"), "[", req, ", ", res, "] {")
		p.P("return ", p.durable("NewAutoResponse"), "[", req, ", ", res, "](", p.tx, ".ConnsPort(), ", m.ProcedureConst(), ")")
		p.P("}")
	}
}

// connections prints the method of a handle that returns the connections of a
// method.
func (p *printer) connections(m *model.Method, self, handle, set, typ, function, port string) {
	c := m.Connection
	if c.Attachment != nil {
		function = "Attached" + function
	}
	p.comment(c.Set()+" returns the open connections of "+m.Name+" that have all of the tags, in the order in\n"+
		"which they were accepted.", "", m.Deprecated)
	p.P("func (", self, " ", handle, ") ", c.Set(), "(", p.tags, " ...string) ", set, " {")
	p.P("return ", p.durable(function), "[", typ, "](", self, ".", port, "(), ", m.ProcedureConst(), ", ", p.tags, ")")
	p.P("}")
}

// describeConnection is the function of package durable that describes such a
// hibernatable method.
func describeConnection(m *model.Method) string {
	kind, shape := "Hibernatable", "ServerStream"
	if m.Connection.Attachment != nil {
		kind = "Attached"
	}
	if m.Shape == model.BidiStream {
		shape = "BidiStream"
	}
	return kind + shape
}
