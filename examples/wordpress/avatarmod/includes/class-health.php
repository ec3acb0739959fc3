<?php
/**
 * Tools, Site Health.
 *
 * @package Avatarmod
 */

namespace Avatarmod;

defined( 'ABSPATH' ) || exit;

/** One check: are avatars being decided? */
final class Health {

	private const LATE_S = HOUR_IN_SECONDS;

	/** Answer its hook. */
	public static function hook(): void {
		add_filter(
			'site_status_tests',
			static function ( array $tests ) {
				$tests['direct']['avatarmod'] = array(
					'label' => __( 'Avatar moderation', 'avatarmod' ),
					'test'  => array( self::class, 'test' ),
				);
				return $tests;
			}
		);
	}

	/** What is wrong, the first of it. */
	public static function problem(): string {
		$fault = Settings::noted( 'fault' );
		if ( null === Settings::parse() ) {
			return __( 'Avatar moderation is not connected: everybody is shown with the default avatar.', 'avatarmod' );
		}
		if ( null !== $fault ) {
			/* translators: %s: what the service answered. */
			return sprintf( __( 'The service takes no pictures: %s', 'avatarmod' ), $fault );
		}
		if ( time() - (int) Settings::noted( 'ticked_at' ) > self::LATE_S ) {
			return __( 'Background work does not run: WP-Cron needs visits, or a system cron job that calls wp-cron.php.', 'avatarmod' );
		}
		if ( time() - (int) Settings::noted( 'reconciled_at' ) > self::LATE_S ) {
			/* translators: %s: what the service answered. */
			return sprintf( __( 'Verdicts cannot be read: %s', 'avatarmod' ), (string) Settings::noted( 'reconcile_error' ) );
		}
		foreach ( Sender::users( array( 'queued' ), 100 ) as $user_id ) {
			if ( time() - Record::of( $user_id )->since > self::LATE_S ) {
				return __( 'An avatar has been waiting for more than an hour: look at the alarms of the service.', 'avatarmod' );
			}
		}
		return '';
	}

	/** In the form of Site Health. */
	public static function test(): array {
		$problem = self::problem();
		return array(
			'label'       => '' === $problem ? __( 'Avatars are being moderated', 'avatarmod' ) : __( 'Avatars are not being moderated', 'avatarmod' ),
			'status'      => '' === $problem ? 'good' : 'critical',
			'badge'       => array(
				'label' => __( 'Avatars', 'avatarmod' ),
				'color' => 'blue',
			),
			'description' => '<p>' . esc_html( '' === $problem ? __( 'Pictures are sent, and verdicts arrive.', 'avatarmod' ) : $problem ) . '</p>',
			'actions'     => sprintf(
				'<p><a href="%s">%s</a></p>',
				esc_url( admin_url( 'options-general.php?page=avatarmod' ) ),
				esc_html__( 'Settings of avatar moderation', 'avatarmod' )
			),
			'test'        => 'avatarmod',
		);
	}
}
