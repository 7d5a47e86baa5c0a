// SPDX-License-Identifier: GPL-2.0-only
/*
 * vDPA Device in Userspace: module init and exit.
 *
 * Character devices: minor 0 is /dev/vduse/control, every other minor belongs
 * to the device that has it in the table (control.c). Devices pin the module,
 * so on exit there are none.
 */
#include <linux/cdev.h>
#include <linux/module.h>

#include "sysfs.h"
#include "vduse.h"

dev_t vduse_devt;
struct workqueue_struct *vduse_wq;

static struct cdev vduse_control_cdev;
static struct cdev vduse_dev_cdev;

static int __init add_control(void)
{
	struct device *dev;
	int ret;

	cdev_init(&vduse_control_cdev, &vduse_control_fops);
	vduse_control_cdev.owner = THIS_MODULE;
	ret = cdev_add(&vduse_control_cdev, vduse_devt, 1);
	if (ret)
		return ret;

	dev = device_create(&vduse_class, NULL, vduse_devt, NULL, "control");
	if (IS_ERR(dev)) {
		cdev_del(&vduse_control_cdev);
		return PTR_ERR(dev);
	}
	return 0;
}

static void del_control(void)
{
	device_destroy(&vduse_class, vduse_devt);
	cdev_del(&vduse_control_cdev);
}

static int __init add_chrdevs(void)
{
	int ret;

	ret = alloc_chrdev_region(&vduse_devt, VDUSE_CONTROL_MINOR,
				  VDUSE_MINORS, "vduse");
	if (ret)
		return ret;

	cdev_init(&vduse_dev_cdev, &vduse_dev_fops);
	vduse_dev_cdev.owner = THIS_MODULE;
	ret = cdev_add(&vduse_dev_cdev,
		       MKDEV(MAJOR(vduse_devt), VDUSE_CONTROL_MINOR + 1),
		       VDUSE_MINORS - 1);
	if (ret)
		goto err_region;

	ret = add_control();
	if (ret)
		goto err_dev;
	return 0;

err_dev:
	cdev_del(&vduse_dev_cdev);
err_region:
	unregister_chrdev_region(vduse_devt, VDUSE_MINORS);
	return ret;
}

static void del_chrdevs(void)
{
	del_control();
	cdev_del(&vduse_dev_cdev);
	unregister_chrdev_region(vduse_devt, VDUSE_MINORS);
}

/* Userspace can create devices as soon as the control device is there: last. */
static int __init vduse_init(void)
{
	int ret;

	vduse_wq = alloc_workqueue("vduse", WQ_HIGHPRI | WQ_MEM_RECLAIM, 0);
	if (!vduse_wq)
		return -ENOMEM;

	ret = vduse_domain_init();
	if (ret)
		goto err_wq;
	ret = vduse_mgmt_init();
	if (ret)
		goto err_domain;
	ret = class_register(&vduse_class);
	if (ret)
		goto err_mgmt;
	ret = add_chrdevs();
	if (ret)
		goto err_class;
	return 0;

err_class:
	class_unregister(&vduse_class);
err_mgmt:
	vduse_mgmt_exit();
err_domain:
	vduse_domain_exit();
err_wq:
	destroy_workqueue(vduse_wq);
	return ret;
}
module_init(vduse_init);

static void __exit vduse_exit(void)
{
	del_chrdevs();
	class_unregister(&vduse_class);
	vduse_mgmt_exit();
	vduse_table_exit();
	vduse_domain_exit();
	destroy_workqueue(vduse_wq);
}
module_exit(vduse_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("vDPA Device in Userspace");
