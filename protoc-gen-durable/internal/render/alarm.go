package render

import (
	"strconv"

	"github.com/durable-go/durable/protoc-gen-durable/internal/model"
)

// background prints the typed way to work in the background.
func (p *printer) background(o *model.Object) {
	p.comment(o.Turns()+" enters turns of one "+o.Name+" from background work.", "", o.Deprecated)
	p.P("type ", o.Turns(), " = ", p.durable("Turns"), "[", o.Tx(), ", ", o.View(), "]")
	p.comment("Go runs "+p.fn+" in the background, once what this turn wrote by then is committed.\n"+
		"It is ["+p.durable("Tx")+"].Background with typed handles; see there.", "", o.Deprecated)
	p.P("func (", p.tx, " ", o.Tx(), ") Go(", p.fn, " func(", p.ctx, " ", p.context, ", ", p.turns, " ", o.Turns(), ") error) error {")
	p.P("return ", p.durable("Go"), "(", p.tx, ", ", p.fn, ")")
	p.P("}")
}

// alarmHandles prints what sets and reads the alarms, and what their handlers get.
func (p *printer) alarmHandles(o *model.Object) {
	if a := o.DefaultAlarm(); a != nil {
		p.alarmMethod(o, a, p.tx, o.Tx(), "Alarm", "", "AlarmPort()")
		p.alarmMethod(o, a, p.view, o.View(), "Alarm", "View", "AlarmReader()")
	}
	if named := o.NamedAlarms(); len(named) > 0 {
		p.alarmSet(o, named, p.tx, o.Tx(), o.AlarmSet(), "", "AlarmPort")
		p.alarmSet(o, named, p.view, o.View(), o.AlarmViewSet(), "View", "AlarmReader")
	}
	for _, a := range o.Alarms {
		p.comment(a.Info()+" tells the handler which run of "+a.What()+" it serves.", "", o.Deprecated)
		p.P("type ", a.Info(), " struct {")
		p.P(p.durable("AlarmInfo"))
		if a.Payload != nil {
			p.P("// Payload is what was set with the alarm. It belongs to the handler.")
			p.P("Payload *", p.qualify(*a.Payload))
		}
		p.P("}")
	}
}

// alarmSet prints the method of a handle that returns its named alarms, and their
// type. suffix is that of the type of each.
func (p *printer) alarmSet(o *model.Object, named []*model.Alarm, self, handle, set, suffix, port string) {
	p.comment("Alarms returns the alarms that have a name.", "", o.Deprecated)
	p.P("func (", self, " ", handle, ") Alarms() ", set, " { return ", set, "{", self, ".", port, "()} }")
	p.comment(set+" has the named alarms of one "+o.Name+".", "", o.Deprecated)
	p.P("type ", set, " struct{ port ", p.durable(port), " }")
	for _, a := range named {
		p.alarmMethod(o, a, p.alarms, set, a.GoName, suffix, "port")
	}
}

// alarmMethod prints a method that returns one alarm.
func (p *printer) alarmMethod(o *model.Object, a *model.Alarm, self, on, method, suffix, port string) {
	typ, newAlarm := p.durable("Alarm"+suffix), p.durable("NewAlarm"+suffix)
	if a.Payload != nil {
		payload := p.qualify(*a.Payload)
		typ = p.durable("PayloadAlarm"+suffix) + "[" + payload + ", *" + payload + "]"
		newAlarm = p.durable("NewPayloadAlarm"+suffix) + "[" + payload + "]"
	}
	p.comment(method+" returns "+a.What()+".", "", o.Deprecated)
	p.P("func (", self, " ", on, ") ", method, "() ", typ, " { return ", newAlarm, "(", self, ".", port, ", ", nameOf(a), ") }")
}

// nameOf is the name of an alarm as an expression.
func nameOf(a *model.Alarm) string {
	if a.Name == "" {
		return strconv.Quote("")
	}
	return a.NameConst()
}
